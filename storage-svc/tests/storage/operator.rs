//! What an operator does to queues and messages, for the tests of several topics.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::v1;
use proto::v1::settlement::Action;
use proto::v1::settlement_result::Status;
use rusqlite::{Connection, OpenFlags};

use crate::support::{Service, message, receive, seconds};

pub(crate) fn ack() -> Action {
    Action::Ack(v1::settlement::Ack {})
}

pub(crate) fn nack(delay_seconds: i64, error: &str) -> Action {
    Action::Nack(v1::settlement::Nack {
        delay: Some(seconds(delay_seconds)),
        error: error.to_owned(),
        refund_attempt: false,
    })
}

pub(crate) fn dead(reason: &str) -> Action {
    Action::Dead(v1::settlement::Dead {
        reason: reason.to_owned(),
    })
}

pub(crate) fn keyed(key: &str, text: &str) -> v1::NewMessage {
    v1::NewMessage {
        ordering_key: key.to_owned(),
        ..message(text)
    }
}

pub(crate) fn enqueue(messages: Vec<v1::NewMessage>) -> v1::EnqueueRequest {
    v1::EnqueueRequest {
        messages,
        request_id: String::new(),
    }
}

pub(crate) fn id(delivery: &v1::Delivery) -> u64 {
    delivery.message.as_ref().expect("a delivery has a message").id
}

pub(crate) fn ids(deliveries: &[v1::Delivery]) -> Vec<u64> {
    deliveries.iter().map(id).collect()
}

pub(crate) fn create_queue(name: &str, settings: v1::QueueSettings) -> v1::CreateQueueRequest {
    v1::CreateQueueRequest {
        name: name.to_owned(),
        settings: Some(settings),
    }
}

pub(crate) fn default_settings() -> v1::QueueSettings {
    v1::QueueSettings {
        lease: Some(seconds(30)),
        max_attempts: Some(10),
        backoff: Some(v1::BackoffPolicy {
            initial: Some(seconds(1)),
            max: Some(seconds(600)),
            jitter_percent: Some(20),
        }),
        dedup_window: Some(seconds(600)),
        dead_retention: Some(seconds(14 * 86_400)),
        max_depth: Some(1_000_000),
        paused: Some(false),
    }
}

pub(crate) fn max_depth(messages: u64) -> v1::QueueSettings {
    v1::QueueSettings {
        max_depth: Some(messages),
        ..Default::default()
    }
}

impl Service {
    /// The ids of new messages.
    pub(crate) async fn send(&mut self, messages: Vec<v1::NewMessage>) -> Vec<u64> {
        let answer = self.queue.enqueue(enqueue(messages)).await.expect("it is enqueued");
        answer.into_inner().results.iter().map(|result| result.id).collect()
    }

    /// The one message that is delivered.
    #[track_caller]
    pub(crate) fn receive_one(&mut self) -> impl Future<Output = v1::Delivery> {
        let caller = std::panic::Location::caller();
        async move {
            let mut deliveries = self.receive().await;
            assert_eq!(deliveries.len(), 1, "{caller}: one message, not {deliveries:?}");
            deliveries.remove(0)
        }
    }

    /// Settles what must still be held.
    #[track_caller]
    pub(crate) fn done(&mut self, receipt: &Bytes, action: Action) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move { assert_eq!(self.settle(receipt, action).await, Status::Ok, "{caller}") }
    }

    /// Sets the one queue of most tests up.
    pub(crate) async fn create(&mut self, settings: v1::QueueSettings) {
        let request = v1::CreateQueueRequest {
            name: "q".to_owned(),
            settings: Some(settings),
        };
        self.queue.create_queue(request).await.expect("it is made");
    }

    /// Changes the settings that are set.
    pub(crate) async fn change(&mut self, settings: v1::QueueSettings) {
        let request = v1::UpdateQueueRequest {
            name: "q".to_owned(),
            settings: Some(settings),
            update_mask: None,
        };
        self.queue.update_queue(request).await.expect("it is changed");
    }

    pub(crate) async fn message(&mut self, id: u64) -> v1::Message {
        let request = v1::GetMessageRequest {
            queue: "q".to_owned(),
            which: Some(v1::get_message_request::Which::Id(id)),
        };
        let answer = self.queue.get_message(request).await.expect("it is there");
        answer.into_inner().message.expect("it is answered")
    }

    pub(crate) async fn state(&mut self, id: u64) -> v1::MessageState {
        self.message(id).await.state()
    }

    /// How many were moved, and whether there are more.
    pub(crate) async fn redrive(&mut self, ids: &[u64]) -> (u64, bool) {
        let request = v1::RedriveRequest {
            queue: "q".to_owned(),
            ids: ids.to_vec(),
        };
        let answer = self.queue.redrive(request).await.expect("it redrives").into_inner();
        (answer.moved, answer.more)
    }

    /// How many were deleted, and whether there are more.
    pub(crate) async fn purge(&mut self, ids: &[u64], states: &[v1::MessageState]) -> (u64, bool) {
        let answer = self.queue.purge(purge(ids, states)).await.expect("it purges");
        let answer = answer.into_inner();
        (answer.deleted, answer.more)
    }

    /// One message in every state, one of them delivered before; ids in the order of the states' numbers.
    pub(crate) async fn one_in_each_state(&mut self) -> [u64; 5] {
        let dies = self.send(vec![message("dies")]).await[0];
        let delivery = self.receive_one().await;
        self.done(&delivery.receipt, dead("no use")).await;
        let leased = v1::NewMessage {
            dedup_id: "once".to_owned(),
            attributes: [("trace".to_owned(), "t".to_owned())].into(),
            ..keyed("k", "leased")
        };
        let leased = self.send(vec![leased]).await[0];
        let delivery = self.receive_one().await;
        self.done(&delivery.receipt, nack(0, "once more")).await;
        let request = v1::ReceiveRequest {
            lease: Some(seconds(300)),
            ..receive()
        };
        let again = self.queue.receive(request).await.expect("it receives");
        assert_eq!(ids(&again.into_inner().deliveries), [leased]);
        let later = v1::NewMessage {
            delay: Some(seconds(60)),
            ..message("later")
        };
        let sent = self.send(vec![later, message("ready"), keyed("k", "blocked")]).await;
        [sent[0], sent[1], leased, dies, sent[2]]
    }

    /// Rows of every table that has some, but for the store's own facts.
    pub(crate) fn rows(&self) -> BTreeMap<String, i64> {
        let file = Connection::open_with_flags(self.path(), OpenFlags::SQLITE_OPEN_READ_ONLY).expect("it opens");
        let tables =
            "select name from sqlite_schema where type = 'table' and name not like 'sqlite%' and name <> 'store'";
        let mut tables = file.prepare(tables).expect("the statement is good");
        let names = tables.query_map((), |row| row.get(0)).expect("it lists");
        let rows = names.map(|name| {
            let name: String = name.expect("a name is a text");
            let sql = format!("select count(*) from {name}");
            let count = file.query_row(&sql, (), |row| row.get(0)).expect("it counts");
            (name, count)
        });
        rows.filter(|(_, count)| *count > 0).collect()
    }
}

pub(crate) fn purge(ids: &[u64], states: &[v1::MessageState]) -> v1::PurgeRequest {
    v1::PurgeRequest {
        queue: "q".to_owned(),
        ids: ids.to_vec(),
        states: states.iter().map(|state| (*state).into()).collect(),
    }
}
