//! Random histories of queues against a model in memory: every call of QueueService but Consume, and Commit, over
//! restarts and with the clock in hand. After every step all figures and all messages are compared.

mod messages;
mod steps;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use proptest::test_runner::TestRunner;
use proto::v1;
use proto::v1::commit_response::{Committed, Conflict, Outcome};
use proto::v1::settlement::Action;
use proto::v1::settlement_result::Status as Settled;
use tonic::{Code, Response, Status};

use self::messages::{Answer, Model, duration, timestamp};
use self::steps::{ActionStep, CommitStep, NewStep, QUEUES, Step, history};
use crate::in_process::{InProcess, cases, runtime};
use crate::support::{START_MS, within};

/// A request is remembered for so long.
const REMEMBERED_MS: i64 = 600_000;
/// The key that is never there.
const NO_KEY: &str = "none";

/// A store and what it should hold. Queues go at the end of a case; ids, the clock and the revision go on.
struct World {
    service: Option<InProcess>,
    model: Model,
    /// Of the store; nothing here expires, so it is exact.
    revision: u64,
    remembered: HashMap<String, Remembered>,
    cases: usize,
    messages: usize,
}

/// A request and what it was answered, when.
struct Remembered {
    asked: Asked,
    committed: Committed,
    time_ms: i64,
}

#[derive(Clone, Debug, PartialEq)]
enum Asked {
    Enqueue(v1::EnqueueRequest),
    Commit(v1::CommitRequest),
}

impl World {
    fn new() -> Self {
        Self {
            service: Some(InProcess::start()),
            model: Model {
                now_ms: START_MS,
                ..Model::default()
            },
            revision: 0,
            remembered: HashMap::new(),
            cases: 0,
            messages: 0,
        }
    }

    fn service(&mut self) -> &mut InProcess {
        self.service.as_mut().expect("it runs")
    }

    fn new_messages(&mut self, steps: &[NewStep]) -> Vec<v1::NewMessage> {
        let messages = steps.iter().map(|step| {
            self.messages += 1;
            let content = if self.messages.is_multiple_of(2) {
                v1::new_message::Content::Text(format!("work {}", self.messages))
            } else {
                v1::new_message::Content::Body(self.messages.to_be_bytes().to_vec().into())
            };
            v1::NewMessage {
                queue: QUEUES[step.queue].to_owned(),
                content: Some(content),
                attributes: [("number".to_owned(), self.messages.to_string())].into(),
                ordering_key: step.ordering_key.map(|key| format!("key {key}")).unwrap_or_default(),
                dedup_id: step.dedup_id.map(|id| format!("id {id}")).unwrap_or_default(),
                delay: (step.delay_ms > 0).then(|| duration(step.delay_ms)),
            }
        });
        messages.collect()
    }

    fn settlements(&self, steps: &[(usize, ActionStep)]) -> Vec<v1::Settlement> {
        let model = &self.model;
        let all: Vec<&Bytes> = model.receipts.iter().map(|(receipt, _)| receipt).collect();
        let held = all
            .iter()
            .copied()
            .filter(|receipt| model.judge(receipt) == Settled::Ok);
        let held: Vec<&Bytes> = held.collect();
        let settlements = steps.iter().filter_map(|(number, step)| {
            // Mostly one that holds; else any that ever was.
            let among = if number % 4 > 0 && !held.is_empty() {
                &held
            } else {
                &all
            };
            let receipt = *among.get(number % among.len().max(1))?;
            let action = match *step {
                ActionStep::Ack => Action::Ack(v1::settlement::Ack {}),
                ActionStep::Nack { delay_ms, refund } => Action::Nack(v1::settlement::Nack {
                    delay: delay_ms.map(duration),
                    error: format!("error {number}"),
                    refund_attempt: refund,
                }),
                ActionStep::Extend(lease_ms) => Action::Extend(v1::settlement::Extend {
                    lease: Some(duration(lease_ms)),
                }),
                ActionStep::Dead => Action::Dead(v1::settlement::Dead {
                    reason: format!("reason {number}"),
                }),
            };
            Some(v1::Settlement {
                receipt: receipt.clone(),
                action: Some(action),
            })
        });
        settlements.collect()
    }

    /// What a request of this id was answered before; or that it was another.
    fn recall(&self, id: &str, asked: &Asked) -> Option<Answer<Committed>> {
        let known = self.remembered.get(id)?;
        if known.time_ms + REMEMBERED_MS <= self.model.now_ms {
            return None;
        }
        let replayed = Committed {
            replayed: true,
            ..known.committed.clone()
        };
        Some(if known.asked == *asked {
            Ok(replayed)
        } else {
            Err(Code::InvalidArgument)
        })
    }

    fn remember(&mut self, id: &str, asked: Asked, committed: &Committed) {
        if !id.is_empty() {
            let remembered = Remembered {
                asked,
                committed: committed.clone(),
                time_ms: self.model.now_ms,
            };
            self.remembered.insert(id.to_owned(), remembered);
        }
    }

    fn enqueue(&mut self, request: &v1::EnqueueRequest) -> Answer<Vec<v1::EnqueueResult>> {
        let asked = Asked::Enqueue(request.clone());
        if let Some(known) = self.recall(&request.request_id, &asked) {
            return known.map(|committed| committed.enqueued);
        }
        let results = self.model.enqueue(&request.messages)?;
        if results.iter().any(|result| !result.deduplicated) {
            let committed = Committed {
                enqueued: results.clone(),
                ..Default::default()
            };
            self.remember(&request.request_id, asked, &committed);
        }
        Ok(results)
    }

    fn commit(&mut self, request: &v1::CommitRequest) -> Answer<Outcome> {
        let asked = Asked::Commit(request.clone());
        if let Some(known) = self.recall(&request.request_id, &asked) {
            return known.map(Outcome::Committed);
        }
        let failed_settlements: Vec<u32> = (0..)
            .zip(&request.settlements)
            .filter(|(_, settlement)| self.model.judge(&settlement.receipt) != Settled::Ok)
            .map(|(index, _)| index)
            .collect();
        // Its only check is about a key that is never there.
        let check = request.checks.first().and_then(|check| check.expect.as_ref());
        let fails = check == Some(&v1::check::Expect::Exists(true));
        if fails || !failed_settlements.is_empty() {
            return Ok(Outcome::Conflict(Conflict {
                failed_checks: if fails { vec![0] } else { Vec::new() },
                failed_settlements,
                current: Vec::new(),
                store_revision: self.revision,
            }));
        }
        let before = self.model.clone();
        for settlement in &request.settlements {
            self.model.settle(settlement);
        }
        let enqueued = self
            .model
            .enqueue(&request.enqueues)
            .inspect_err(|_| self.model = before)?;
        self.revision += u64::from(!request.mutations.is_empty());
        let has_effect = !request.mutations.is_empty()
            || !request.settlements.is_empty()
            || enqueued.iter().any(|result| !result.deduplicated);
        let committed = Committed {
            revision: self.revision,
            commit_time: Some(timestamp(self.model.now_ms)),
            enqueued,
            replayed: false,
        };
        if has_effect {
            self.remember(&request.request_id, asked, &committed);
        }
        Ok(Outcome::Committed(committed))
    }

    fn build(&mut self, case: usize, step: &CommitStep) -> v1::CommitRequest {
        let mut named = BTreeSet::new();
        let mut settlements = self.settlements(&step.settlements);
        let whose = |receipt: &Bytes| {
            let found = self.model.receipts.iter().find(|(known, _)| known == receipt);
            found.map(|(_, id)| *id)
        };
        settlements.retain(|settlement| named.insert(whose(&settlement.receipt)));
        let key = |key: &str| ("effects".to_owned(), key.to_owned());
        let (namespace, none) = key(NO_KEY);
        v1::CommitRequest {
            checks: vec![v1::Check {
                namespace: namespace.clone(),
                key: none,
                expect: Some(v1::check::Expect::Exists(!step.check_holds)),
            }],
            mutations: step
                .writes_key
                .then(|| v1::Mutation {
                    namespace,
                    key: "done".to_owned(),
                    op: Some(v1::mutation::Op::Put(v1::mutation::Put::default())),
                })
                .into_iter()
                .collect(),
            enqueues: self.new_messages(&step.enqueues),
            settlements,
            request_id: request_id(case, step.request_id),
        }
    }

    #[expect(clippy::too_many_lines, reason = "one short arm for each call")]
    async fn take(&mut self, case: usize, step: Step) {
        match step {
            Step::Enqueue(messages, id) => {
                let mut request = v1::EnqueueRequest {
                    messages: self.new_messages(&messages),
                    request_id: request_id(case, id),
                };
                // Sometimes the same once more.
                if let Some(Remembered {
                    asked: Asked::Enqueue(known),
                    ..
                }) = self.remembered.get(&request.request_id)
                    && messages.len() % 2 == 1
                {
                    request = known.clone();
                }
                let expected = self.enqueue(&request);
                let answer = told(self.service().queue.enqueue(request).await);
                assert_eq!(answer.map(|answer| answer.results), expected);
            }
            Step::Commit(step) => {
                let mut request = self.build(case, &step);
                if let Some(Remembered {
                    asked: Asked::Commit(known),
                    ..
                }) = self.remembered.get(&request.request_id)
                    && step.writes_key
                {
                    request = known.clone();
                }
                let expected = self.commit(&request);
                let answer = told(self.service().kv.commit(request).await);
                assert_eq!(answer.map(|answer| answer.outcome.expect("there is one")), expected);
            }
            Step::Receive {
                queue,
                max_messages,
                lease_ms,
            } => self.receive(queue, max_messages, lease_ms).await,
            Step::Settle(steps) => {
                let settlements = self.settlements(&steps);
                if settlements.is_empty() {
                    return;
                }
                let expected: Vec<_> = settlements
                    .iter()
                    .map(|settlement| self.model.settle(settlement))
                    .collect();
                let request = v1::SettleRequest { settlements };
                let answer = told(self.service().queue.settle(request).await);
                assert_eq!(answer.map(|answer| answer.results), Ok(expected));
            }
            Step::Create(queue, settings) => {
                let request = v1::CreateQueueRequest {
                    name: QUEUES[queue].to_owned(),
                    settings: Some(settings),
                };
                let expected = self.model.create(&request);
                let answer = told(self.service().queue.create_queue(request).await);
                assert_eq!(answer.map(|answer| answer.queue.expect("it is told")), expected);
            }
            Step::Update(queue, settings, paths) => {
                let paths: Vec<_> = paths.into_iter().map(str::to_owned).collect();
                let request = v1::UpdateQueueRequest {
                    name: QUEUES[queue].to_owned(),
                    settings: Some(settings),
                    update_mask: Some(prost_types::FieldMask { paths }),
                };
                let expected = self.model.update(&request);
                let answer = told(self.service().queue.update_queue(request).await);
                assert_eq!(answer.map(|answer| answer.queue.expect("it is told")), expected);
            }
            Step::Delete(queue, force) => self.delete(QUEUES[queue], force).await,
            Step::Redrive(queue, numbers) => {
                let request = v1::RedriveRequest {
                    queue: QUEUES[queue].to_owned(),
                    ids: self.ids(&numbers),
                };
                let expected = self.model.redrive(&request);
                assert_eq!(told(self.service().queue.redrive(request).await), expected);
            }
            Step::Purge(queue, numbers, states) => {
                let request = v1::PurgeRequest {
                    queue: QUEUES[queue].to_owned(),
                    ids: self.ids(&numbers),
                    states,
                };
                let expected = self.model.purge(&request);
                assert_eq!(told(self.service().queue.purge(request).await), expected);
            }
            Step::Look {
                queue,
                state,
                page_size,
                omit_bodies,
                message,
                dedup_id,
            } => {
                let state = v1::MessageState::try_from(state).expect("it is one");
                self.list(QUEUES[queue], state, page_size, omit_bodies).await;
                self.stats(QUEUES[queue]).await;
                self.list_queues(page_size).await;
                let id = self.ids(&[message]).first().copied().unwrap_or(1);
                let dedup_id = format!("id {dedup_id}");
                for which in [
                    v1::get_message_request::Which::Id(id),
                    v1::get_message_request::Which::DedupId(dedup_id),
                ] {
                    let request = v1::GetMessageRequest {
                        queue: QUEUES[queue].to_owned(),
                        which: Some(which),
                    };
                    let expected = self.model.get(&request);
                    let answer = told(self.service().queue.get_message(request).await);
                    assert_eq!(answer.map(|answer| answer.message.expect("it is told")), expected);
                }
            }
            Step::Pass(ms) => {
                self.model.pass(ms);
                self.service().clock.advance_ms(ms);
            }
            Step::Restart => {
                let service = self.service.take().expect("it runs");
                self.service = Some(service.restart().await);
            }
        }
    }

    async fn receive(&mut self, queue: usize, max_messages: u32, lease_ms: Option<i64>) {
        let request = v1::ReceiveRequest {
            queue: QUEUES[queue].to_owned(),
            max_messages,
            wait: None,
            lease: lease_ms.map(duration),
        };
        let answer = told(self.service().queue.receive(request.clone()).await).expect("it receives");
        let receipts: Vec<Bytes> = answer
            .deliveries
            .iter()
            .map(|delivery| delivery.receipt.clone())
            .collect();
        let expected = self.model.receive(&request, &receipts);
        for delivery in &answer.deliveries {
            let message = delivery.message.as_ref().expect("it is there");
            assert_eq!(delivery.lease_expire_time, message.due_time);
        }
        let delivered: Vec<_> = answer
            .deliveries
            .into_iter()
            .filter_map(|delivery| delivery.message)
            .collect();
        assert_eq!(delivered, expected, "{request:?}");
    }

    async fn delete(&mut self, name: &str, force: bool) {
        let request = v1::DeleteQueueRequest {
            name: name.to_owned(),
            force,
        };
        let expected = self.model.delete(name, force);
        let answer = told(self.service().queue.delete_queue(request).await);
        assert_eq!(answer.map(|answer| answer.deleted), expected);
    }

    /// Of messages that are there, or were or will be.
    fn ids(&self, numbers: &[usize]) -> Vec<u64> {
        let model = &self.model;
        let ids = numbers.iter().map(|number| {
            let known = model.messages.keys().nth(number % (model.messages.len() + 1));
            known.copied().unwrap_or(model.last_id + 1)
        });
        ids.collect()
    }

    /// Reads all pages of a queue's messages in a state.
    async fn list(&mut self, queue: &str, state: v1::MessageState, page_size: i32, omit_bodies: bool) {
        let expected = self.model.list(queue, state, !omit_bodies);
        let mut request = v1::ListMessagesRequest {
            queue: queue.to_owned(),
            state: state.into(),
            page_size,
            page_token: String::new(),
            omit_bodies,
        };
        let mut listed = Ok(Vec::new());
        loop {
            match told(self.service().queue.list_messages(request.clone()).await) {
                Ok(page) => {
                    let messages = listed.as_mut().expect("it went well so far");
                    if page_size > 0 && !page.next_page_token.is_empty() {
                        assert_eq!(page.messages.len(), usize::try_from(page_size).expect("it is positive"));
                    }
                    messages.extend(page.messages);
                    request.page_token = page.next_page_token;
                    if request.page_token.is_empty() {
                        break;
                    }
                    assert!(messages.len() <= self.model.messages.len(), "the list does not end");
                }
                Err(code) => {
                    listed = Err(code);
                    break;
                }
            }
        }
        assert_eq!(listed, expected, "{state:?} of {queue}");
    }

    /// Compares all figures and all messages.
    async fn compare(&mut self) {
        self.list_queues(0).await;
        let queues: Vec<String> = self.model.queues.keys().cloned().collect();
        for queue in queues {
            self.list(&queue, v1::MessageState::Unspecified, 0, false).await;
        }
    }

    /// Reads all pages of the queues.
    async fn list_queues(&mut self, page_size: i32) {
        let mut request = v1::ListQueuesRequest {
            page_size,
            page_token: String::new(),
        };
        let mut queues = Vec::new();
        loop {
            let page = told(self.service().queue.list_queues(request.clone()).await).expect("they are listed");
            queues.extend(page.queues);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
            assert!(queues.len() < QUEUES.len(), "the list does not end");
        }
        let expected: Vec<_> = self.model.queues.keys().map(|name| self.model.queue(name)).collect();
        assert_eq!(queues, expected);
    }

    async fn stats(&mut self, queue: &str) {
        let request = v1::GetQueueStatsRequest {
            queue: queue.to_owned(),
        };
        let stats = told(self.service().queue.get_queue_stats(request).await);
        let known = self.model.queues.contains_key(queue).then(|| self.model.queue(queue));
        let expected = known.and_then(|known| known.stats).ok_or(Code::NotFound);
        assert_eq!(stats.map(|answer| answer.stats.expect("they are told")), expected);
    }

    /// Back-offs of queues that were made by use are made exact.
    async fn take_jitter_away(&mut self) {
        let names = self
            .model
            .queues
            .iter()
            .filter(|(_, queue)| queue.settings.jitter_percent > 0);
        let names: Vec<String> = names.map(|(name, _)| name.clone()).collect();
        for name in names {
            let request = v1::UpdateQueueRequest {
                name,
                settings: Some(v1::QueueSettings {
                    backoff: Some(v1::BackoffPolicy {
                        jitter_percent: Some(0),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                update_mask: None,
            };
            let expected = self.model.update(&request);
            let answer = told(self.service().queue.update_queue(request).await);
            assert_eq!(answer.map(|answer| answer.queue.expect("it is told")), expected);
        }
    }
}

fn request_id(case: usize, id: Option<u8>) -> String {
    id.map(|id| format!("case{case}-{id}")).unwrap_or_default()
}

fn told<T>(answer: Result<Response<T>, Status>) -> Answer<T> {
    answer.map(Response::into_inner).map_err(|status| status.code())
}

async fn play(world: &mut World, settings: Vec<v1::QueueSettings>, steps: Vec<Step>) {
    world.cases += 1;
    let case = world.cases;
    for (queue, settings) in settings.into_iter().enumerate() {
        world.take(case, Step::Create(queue, settings)).await;
    }
    for step in steps {
        world.take(case, step).await;
        world.take_jitter_away().await;
        world.compare().await;
    }
    for queue in QUEUES {
        world.delete(queue, true).await;
    }
    world.model.receipts.clear();
    world.remembered.clear();
}

#[test]
fn queues_are_what_the_model_says() {
    let runtime = runtime("model_queue");
    let world = RefCell::new(None::<World>);
    let mut runner = TestRunner::new(cases(1_500));
    let done = runner.run(&history(), |(settings, steps)| {
        // Taken, so that none is left over from a case that failed.
        let mut current = world.take().unwrap_or_else(World::new);
        runtime.block_on(within(play(&mut current, settings, steps)));
        world.replace(Some(current));
        Ok(())
    });
    if let Err(failure) = done {
        panic!("{failure}");
    }
    runtime.block_on(async {
        if let Some(mut current) = world.take() {
            let mut service = current.service.take().expect("it runs");
            service.check().await;
            service.stop().await;
        }
    });
}
