//! What queues should be: messages in memory, and what every call should be answered.
//!
//! The rule of ordering keys is told here as it reads, not as it is kept: after every change the messages of a key are
//! looked through and whoever must wait is blocked.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::v1;
use proto::v1::MessageState as State;
use proto::v1::settlement::Action;
use proto::v1::settlement_result::Status as Settled;
use tonic::Code;

/// Attempts that failed, kept of a message.
const FAILURES_KEPT: usize = 20;

/// Settings of a queue, without those that the model does not vary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) lease_ms: i64,
    pub(super) attempts_max: u32,
    pub(super) backoff_min_ms: i64,
    pub(super) backoff_max_ms: i64,
    pub(super) jitter_percent: u32,
    pub(super) dedup_window_ms: i64,
    pub(super) dead_retention_ms: i64,
    pub(super) depth_max: u64,
    pub(super) paused: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_ms: 30_000,
            attempts_max: 10,
            backoff_min_ms: 1_000,
            backoff_max_ms: 600_000,
            jitter_percent: 20,
            dedup_window_ms: 600_000,
            dead_retention_ms: 14 * 86_400_000,
            depth_max: 1_000_000,
            paused: false,
        }
    }
}

impl Settings {
    /// With what a request sets.
    pub(super) fn with(self, set: &v1::QueueSettings) -> Self {
        let backoff = set.backoff.unwrap_or_default();
        let span = |span: Option<prost_types::Duration>, or| span.map_or(or, span_ms);
        Self {
            lease_ms: span(set.lease, self.lease_ms),
            attempts_max: set.max_attempts.unwrap_or(self.attempts_max),
            backoff_min_ms: span(backoff.initial, self.backoff_min_ms),
            backoff_max_ms: span(backoff.max, self.backoff_max_ms),
            jitter_percent: backoff.jitter_percent.unwrap_or(self.jitter_percent),
            dedup_window_ms: span(set.dedup_window, self.dedup_window_ms),
            dead_retention_ms: span(set.dead_retention, self.dead_retention_ms),
            depth_max: set.max_depth.unwrap_or(self.depth_max),
            paused: set.paused.unwrap_or(self.paused),
        }
    }

    /// With what a request names: what it leaves unset gets its default.
    fn masked(mut self, set: &v1::QueueSettings, paths: &[String]) -> Self {
        let full = Self::default().with(set);
        for path in paths {
            match path.as_str() {
                "lease" => self.lease_ms = full.lease_ms,
                "max_attempts" => self.attempts_max = full.attempts_max,
                "backoff" => {
                    self.backoff_min_ms = full.backoff_min_ms;
                    self.backoff_max_ms = full.backoff_max_ms;
                    self.jitter_percent = full.jitter_percent;
                }
                "backoff.initial" => self.backoff_min_ms = full.backoff_min_ms,
                "backoff.max" => self.backoff_max_ms = full.backoff_max_ms,
                "backoff.jitter_percent" => self.jitter_percent = full.jitter_percent,
                "dedup_window" => self.dedup_window_ms = full.dedup_window_ms,
                "dead_retention" => self.dead_retention_ms = full.dead_retention_ms,
                "max_depth" => self.depth_max = full.depth_max,
                "paused" => self.paused = full.paused,
                _ => panic!("{path} is no setting"),
            }
        }
        self
    }

    fn is_good(&self) -> bool {
        self.backoff_min_ms <= self.backoff_max_ms
    }

    fn wire(&self) -> v1::QueueSettings {
        v1::QueueSettings {
            lease: Some(duration(self.lease_ms)),
            max_attempts: Some(self.attempts_max),
            backoff: Some(v1::BackoffPolicy {
                initial: Some(duration(self.backoff_min_ms)),
                max: Some(duration(self.backoff_max_ms)),
                jitter_percent: Some(self.jitter_percent),
            }),
            dedup_window: Some(duration(self.dedup_window_ms)),
            dead_retention: Some(duration(self.dead_retention_ms)),
            max_depth: Some(self.depth_max),
            paused: Some(self.paused),
        }
    }

    fn backoff_ms(&self, attempt: u32) -> i64 {
        assert_eq!(self.jitter_percent, 0, "only then it is exact");
        (1..attempt)
            .fold(self.backoff_min_ms, |ms, _| ms.saturating_mul(2))
            .min(self.backoff_max_ms)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub(super) settings: Settings,
    create_ms: i64,
}

#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) new: v1::NewMessage,
    pub(super) state: State,
    due_ms: i64,
    pub(super) attempt: u32,
    redrives: u32,
    enqueue_ms: i64,
    last_error: String,
    dead_reason: String,
    dead_ms: i64,
    failures: Vec<v1::message::Failure>,
    /// Of the lease that runs, or of the last one.
    receipt: Bytes,
}

impl Message {
    fn fail(&mut self, time_ms: i64, error: &str) {
        self.failures.push(v1::message::Failure {
            attempt: self.attempt,
            time: Some(timestamp(time_ms)),
            error: error.to_owned(),
        });
        if self.failures.len() > FAILURES_KEPT {
            self.failures.remove(0);
        }
    }

    fn bury(&mut self, time_ms: i64, reason: &str) {
        self.state = State::Dead;
        self.dead_ms = time_ms;
        reason.clone_into(&mut self.dead_reason);
    }

    /// After an attempt that failed, or that was none.
    fn retry(&mut self, settings: &Settings, ended_ms: i64, delay_ms: Option<i64>, error: &str, refund: bool) {
        error.clone_into(&mut self.last_error);
        if !refund {
            self.fail(ended_ms, error);
            if self.attempt >= settings.attempts_max {
                self.bury(ended_ms, "attempts exhausted");
                return;
            }
        }
        self.due_ms = ended_ms + delay_ms.unwrap_or_else(|| settings.backoff_ms(self.attempt));
        self.attempt -= u32::from(refund);
        self.state = State::Delayed;
    }
}

/// What the queues should be.
#[derive(Clone, Default)]
pub(super) struct Model {
    pub(super) now_ms: i64,
    pub(super) queues: BTreeMap<String, Queue>,
    pub(super) messages: BTreeMap<u64, Message>,
    pub(super) dedup: BTreeMap<(String, String), (u64, i64)>,
    /// Every receipt there ever was, and whose.
    pub(super) receipts: Vec<(Bytes, u64)>,
    pub(super) last_id: u64,
}

/// An answer, or how the call is refused.
pub(super) type Answer<T> = Result<T, Code>;

impl Model {
    /// Lets time pass: leases run out, delays end, the dead are forgotten.
    pub(super) fn pass(&mut self, by_ms: i64) {
        self.now_ms += by_ms;
        for message in self.messages.values_mut() {
            if message.state == State::Leased && message.due_ms <= self.now_ms {
                let settings = &self.queues[&message.new.queue].settings;
                message.retry(settings, message.due_ms, None, "the lease ran out", false);
            }
        }
        let (now_ms, queues) = (self.now_ms, &self.queues);
        self.messages.retain(|_, message| {
            let kept_ms = queues[&message.new.queue].settings.dead_retention_ms;
            message.state != State::Dead || kept_ms == 0 || message.dead_ms + kept_ms > now_ms
        });
        self.arrange();
    }

    /// Blocks whoever must wait for an earlier message of its key, and lets go whoever need not.
    fn arrange(&mut self) {
        let mut holders = BTreeMap::new();
        for (id, message) in &self.messages {
            let key = (message.new.queue.clone(), message.new.ordering_key.clone());
            match message.state {
                State::Dead => {}
                State::Leased => {
                    holders.insert(key, *id);
                }
                _ => {
                    holders.entry(key).or_insert(*id);
                }
            }
        }
        for (id, message) in &mut self.messages {
            if matches!(message.state, State::Dead | State::Leased) {
                continue;
            }
            let key = (message.new.queue.clone(), message.new.ordering_key.clone());
            message.state = if !message.new.ordering_key.is_empty() && holders[&key] != *id {
                State::Blocked
            } else if message.due_ms > self.now_ms {
                State::Delayed
            } else {
                State::Ready
            };
        }
    }

    fn resolve(&mut self, name: &str) -> &Queue {
        self.queues.entry(name.to_owned()).or_insert(Queue {
            settings: Settings::default(),
            create_ms: self.now_ms,
        })
    }

    fn known(&self, name: &str) -> Answer<&Queue> {
        self.queues.get(name).ok_or(Code::NotFound)
    }

    pub(super) fn create(&mut self, request: &v1::CreateQueueRequest) -> Answer<v1::Queue> {
        let settings = Settings::default().with(&request.settings.unwrap_or_default());
        if !settings.is_good() {
            return Err(Code::InvalidArgument);
        }
        match self.queues.get(&request.name) {
            Some(queue) if queue.settings != settings => return Err(Code::AlreadyExists),
            Some(_) => {}
            None => {
                let create_ms = self.now_ms;
                self.queues.insert(request.name.clone(), Queue { settings, create_ms });
            }
        }
        Ok(self.queue(&request.name))
    }

    pub(super) fn update(&mut self, request: &v1::UpdateQueueRequest) -> Answer<v1::Queue> {
        let set = request.settings.unwrap_or_default();
        let paths = request.update_mask.clone().unwrap_or_default().paths;
        let before = self.known(&request.name)?.settings;
        let settings = if paths.is_empty() {
            before.with(&set)
        } else {
            before.masked(&set, &paths)
        };
        if !settings.is_good() {
            return Err(Code::InvalidArgument);
        }
        self.queues.get_mut(&request.name).expect("it is known").settings = settings;
        let queue = self.queue(&request.name);
        self.pass(0);
        Ok(queue)
    }

    pub(super) fn delete(&mut self, name: &str, force: bool) -> Answer<bool> {
        if !self.queues.contains_key(name) {
            return Ok(false);
        }
        if !force && self.of(name).next().is_some() {
            return Err(Code::FailedPrecondition);
        }
        self.queues.remove(name);
        self.messages.retain(|_, message| message.new.queue != name);
        self.dedup.retain(|(queue, _), _| queue != name);
        Ok(true)
    }

    /// All or none. The answer, and whether anything was added.
    pub(super) fn enqueue(&mut self, messages: &[v1::NewMessage]) -> Answer<Vec<v1::EnqueueResult>> {
        let before = self.clone();
        let mut results = Vec::new();
        for new in messages {
            let settings = self.resolve(&new.queue).settings;
            let dedup = (new.queue.clone(), new.dedup_id.clone());
            let known = self.dedup.get(&dedup).filter(|(_, until_ms)| *until_ms > self.now_ms);
            if let Some((id, _)) = known {
                results.push(v1::EnqueueResult {
                    id: *id,
                    deduplicated: true,
                });
                continue;
            }
            if self.of(&new.queue).count() as u64 >= settings.depth_max {
                *self = before;
                return Err(Code::ResourceExhausted);
            }
            self.last_id += 1;
            if !new.dedup_id.is_empty() && settings.dedup_window_ms > 0 {
                let until_ms = self.now_ms + settings.dedup_window_ms;
                self.dedup.insert(dedup, (self.last_id, until_ms));
            }
            let message = Message {
                new: new.clone(),
                state: State::Delayed,
                due_ms: self.now_ms + new.delay.map_or(0, span_ms),
                attempt: 0,
                redrives: 0,
                enqueue_ms: self.now_ms,
                last_error: String::new(),
                dead_reason: String::new(),
                dead_ms: 0,
                failures: Vec::new(),
                receipt: Bytes::new(),
            };
            self.messages.insert(self.last_id, message);
            results.push(v1::EnqueueResult {
                id: self.last_id,
                deduplicated: false,
            });
        }
        self.arrange();
        Ok(results)
    }

    /// The messages that a receive must deliver; `receipts` are those that it gave.
    pub(super) fn receive(&mut self, request: &v1::ReceiveRequest, receipts: &[Bytes]) -> Vec<v1::Message> {
        let settings = self.resolve(&request.queue).settings;
        if settings.paused {
            return Vec::new();
        }
        let due_ms = self.now_ms + request.lease.map_or(settings.lease_ms, span_ms);
        let ids = self
            .of(&request.queue)
            .filter(|(_, message)| message.state == State::Ready);
        let ids: Vec<u64> = ids
            .map(|(id, _)| id)
            .take(request.max_messages.max(1) as usize)
            .collect();
        for (index, id) in ids.iter().enumerate() {
            let message = self.messages.get_mut(id).expect("it is there");
            message.state = State::Leased;
            message.due_ms = due_ms;
            message.attempt += 1;
            if let Some(receipt) = receipts.get(index) {
                message.receipt = receipt.clone();
                self.receipts.push((receipt.clone(), *id));
            }
        }
        let delivered = ids.iter().map(|id| v1::Message {
            failures: Vec::new(),
            ..self.wire(*id, true)
        });
        delivered.collect()
    }

    /// Whether the receipt still is of a lease that holds.
    pub(super) fn judge(&self, receipt: &Bytes) -> Settled {
        let (_, id) = self
            .receipts
            .iter()
            .find(|(known, _)| known == receipt)
            .expect("it was given");
        match self.messages.get(id) {
            None => Settled::Gone,
            Some(message) if message.state == State::Leased && message.receipt == *receipt => Settled::Ok,
            Some(_) => Settled::Stale,
        }
    }

    pub(super) fn settle(&mut self, settlement: &v1::Settlement) -> v1::SettlementResult {
        let status = self.judge(&settlement.receipt);
        let mut result = v1::SettlementResult {
            status: status.into(),
            lease_expire_time: None,
        };
        if status != Settled::Ok {
            return result;
        }
        let receipts = self.receipts.iter();
        let (_, id) = receipts
            .rev()
            .find(|(known, _)| *known == settlement.receipt)
            .expect("it was given");
        let now_ms = self.now_ms;
        let message = self.messages.get_mut(id).expect("it was judged");
        match settlement.action.as_ref().expect("it is set") {
            Action::Ack(_) => {
                self.messages.remove(id);
            }
            Action::Nack(nack) => {
                let settings = &self.queues[&message.new.queue].settings;
                message.retry(
                    settings,
                    now_ms,
                    nack.delay.map(span_ms),
                    &nack.error,
                    nack.refund_attempt,
                );
            }
            Action::Extend(extend) => {
                message.due_ms = now_ms + extend.lease.map_or(0, span_ms);
                result.lease_expire_time = Some(timestamp(message.due_ms));
            }
            Action::Dead(dead) => {
                message.fail(now_ms, &dead.reason);
                message.bury(now_ms, &dead.reason);
            }
        }
        self.arrange();
        result
    }

    /// Those of a queue that are meant, by the states that they are in now.
    fn meant(&self, queue: &str, ids: &[u64], states: &BTreeSet<State>) -> Vec<u64> {
        let of_queue = self.of(queue);
        let meant =
            of_queue.filter(|(id, message)| states.contains(&message.state) && (ids.is_empty() || ids.contains(id)));
        meant.map(|(id, _)| id).collect()
    }

    pub(super) fn redrive(&mut self, request: &v1::RedriveRequest) -> Answer<v1::RedriveResponse> {
        self.known(&request.queue)?;
        let ids = self.meant(&request.queue, &request.ids, &[State::Dead].into());
        for id in &ids {
            let message = self.messages.get_mut(id).expect("it is there");
            message.state = State::Ready;
            message.due_ms = self.now_ms;
            message.attempt = 0;
            message.redrives += 1;
            message.dead_reason.clear();
        }
        self.arrange();
        Ok(v1::RedriveResponse {
            moved: ids.len() as u64,
            more: false,
        })
    }

    pub(super) fn purge(&mut self, request: &v1::PurgeRequest) -> Answer<v1::PurgeResponse> {
        if request.states.is_empty() {
            return Err(Code::InvalidArgument);
        }
        self.known(&request.queue)?;
        let ids = self.meant(&request.queue, &request.ids, &request.states().collect());
        for id in &ids {
            self.messages.remove(id);
        }
        self.arrange();
        Ok(v1::PurgeResponse {
            deleted: ids.len() as u64,
            more: false,
        })
    }

    pub(super) fn get(&self, request: &v1::GetMessageRequest) -> Answer<v1::Message> {
        self.known(&request.queue)?;
        let id = match request.which.as_ref().expect("it is set") {
            v1::get_message_request::Which::Id(id) => Some(*id),
            v1::get_message_request::Which::DedupId(dedup_id) => {
                let known = self.dedup.get(&(request.queue.clone(), dedup_id.clone()));
                known.filter(|(_, until_ms)| *until_ms > self.now_ms).map(|(id, _)| *id)
            }
        };
        let found = id.filter(|id| self.of(&request.queue).any(|(known, _)| known == *id));
        found.map(|id| self.wire(id, true)).ok_or(Code::NotFound)
    }

    /// All messages of a queue in a state, or in all.
    pub(super) fn list(&self, queue: &str, state: State, with_bodies: bool) -> Answer<Vec<v1::Message>> {
        self.known(queue)?;
        let listed = self
            .of(queue)
            .filter(|(_, message)| state == State::Unspecified || message.state == state);
        Ok(listed.map(|(id, _)| self.wire(id, with_bodies)).collect())
    }

    pub(super) fn of(&self, queue: &str) -> impl Iterator<Item = (u64, &Message)> {
        let messages = self
            .messages
            .iter()
            .filter(move |(_, message)| message.new.queue == queue);
        messages.map(|(id, message)| (*id, message))
    }

    pub(super) fn queue(&self, name: &str) -> v1::Queue {
        let queue = &self.queues[name];
        v1::Queue {
            name: name.to_owned(),
            settings: Some(queue.settings.wire()),
            stats: Some(self.stats(name)),
            create_time: Some(timestamp(queue.create_ms)),
        }
    }

    fn stats(&self, queue: &str) -> v1::QueueStats {
        let count = |state| self.of(queue).filter(|(_, message)| message.state == state).count() as u64;
        let mut ready = self.of(queue).filter(|(_, message)| message.state == State::Ready);
        v1::QueueStats {
            ready: count(State::Ready),
            delayed: count(State::Delayed),
            leased: count(State::Leased),
            dead: count(State::Dead),
            oldest_ready_age: ready
                .next()
                .map(|(_, message)| duration(self.now_ms - message.enqueue_ms)),
            blocked: count(State::Blocked),
        }
    }

    fn wire(&self, id: u64, with_body: bool) -> v1::Message {
        let message = &self.messages[&id];
        let is_dead = message.state == State::Dead;
        let is_timed = matches!(message.state, State::Delayed | State::Leased | State::Blocked);
        let content = message.new.content.clone().filter(|_| with_body);
        v1::Message {
            id,
            queue: message.new.queue.clone(),
            content: content.map(|content| match content {
                v1::new_message::Content::Body(bytes) => v1::message::Content::Body(bytes),
                v1::new_message::Content::Text(text) => v1::message::Content::Text(text),
            }),
            attributes: message.new.attributes.clone(),
            ordering_key: message.new.ordering_key.clone(),
            attempt: message.attempt,
            enqueue_time: Some(timestamp(message.enqueue_ms)),
            due_time: is_timed.then(|| timestamp(message.due_ms)),
            state: message.state.into(),
            dead_reason: message.dead_reason.clone(),
            last_error: message.last_error.clone(),
            failures: message.failures.clone(),
            dead_time: is_dead.then(|| timestamp(message.dead_ms)),
            redrives: message.redrives,
            dedup_id: message.new.dedup_id.clone(),
        }
    }
}

fn span_ms(span: prost_types::Duration) -> i64 {
    span.seconds * 1_000 + i64::from(span.nanos / 1_000_000)
}

pub(super) fn duration(span_ms: i64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: span_ms / 1_000,
        nanos: i32::try_from(span_ms % 1_000 * 1_000_000).expect("parts of a second fit"),
    }
}

pub(super) fn timestamp(time_ms: i64) -> prost_types::Timestamp {
    let duration = duration(time_ms);
    prost_types::Timestamp {
        seconds: duration.seconds,
        nanos: duration.nanos,
    }
}
