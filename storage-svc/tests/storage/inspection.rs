//! Messages looked at without leasing them: one, and pages of them; and that nothing is left of those that are done.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::limits::{LIST_BYTES, LIST_ROWS_MAX};
use proto::v1;
use proto::v1::MessageState::{Blocked, Dead, Delayed, Leased, Ready};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::operator::{ack, enqueue, keyed};
use crate::support::{Service, message, receive, refused, seconds, within};

fn waiting() -> v1::ReceiveRequest {
    v1::ReceiveRequest {
        wait: Some(seconds(10)),
        ..receive()
    }
}

fn list(state: v1::MessageState) -> v1::ListMessagesRequest {
    v1::ListMessagesRequest {
        queue: "q".to_owned(),
        state: state.into(),
        ..Default::default()
    }
}

impl Service {
    async fn listed(&mut self, state: v1::MessageState) -> Vec<u64> {
        let answer = self
            .queue
            .list_messages(list(state))
            .await
            .expect("it lists")
            .into_inner();
        assert_eq!(answer.next_page_token, "");
        answer.messages.iter().map(|message| message.id).collect()
    }
}

#[tokio::test]
async fn messages_are_seen_in_every_state() {
    let mut service = Service::start().await;
    let all = service.one_in_each_state().await;
    for (id, state) in all.into_iter().zip([Delayed, Ready, Leased, Dead, Blocked]) {
        assert_eq!(service.state(id).await, state);
        assert_eq!(service.listed(state).await, [id]);
    }
    let mut sorted = all;
    sorted.sort_unstable();
    assert_eq!(service.listed(v1::MessageState::Unspecified).await, sorted);
    let leased = service.message(all[2]).await;
    assert_eq!(leased.queue, "q");
    assert_eq!(leased.content, Some(v1::message::Content::Text("leased".to_owned())));
    assert_eq!(leased.attributes, [("trace".to_owned(), "t".to_owned())].into());
    assert_eq!((leased.ordering_key.as_str(), leased.dedup_id.as_str()), ("k", "once"));
    assert_eq!((leased.attempt, leased.last_error.as_str()), (2, "once more"));
    assert_eq!(
        leased.due_time.map(|time| time.seconds),
        Some(1_700_000_300),
        "the lease's end"
    );
    let due = |message: v1::Message| message.due_time.map(|time| time.seconds);
    assert_eq!(due(service.message(all[0]).await), Some(1_700_000_060));
    assert_eq!(due(service.message(all[1]).await), None);
    assert_eq!(due(service.message(all[4]).await), Some(1_700_000_000));
    // Looking changes nothing.
    assert_eq!(service.message(all[2]).await, leased);

    // The figures and the list are those of now.
    service.clock.advance_ms(60_000);
    assert_eq!(service.listed(Ready).await, [all[0], all[1]]);
    let get = |queue: &str, which| v1::GetMessageRequest {
        queue: queue.to_owned(),
        which,
    };
    let by_id = |id| Some(v1::get_message_request::Which::Id(id));
    let elsewhere = v1::NewMessage {
        queue: "elsewhere".to_owned(),
        ..message("m")
    };
    let elsewhere = service.send(vec![elsewhere]).await[0];
    for request in [
        get("q", by_id(elsewhere)),
        get("q", by_id(0)),
        get("q", by_id(u64::MAX)),
        get("no", by_id(1)),
    ] {
        let status = service.queue.get_message(request).await.expect_err("it is not there");
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.get_details_resource_info().is_some());
    }
    refused(service.queue.get_message(get("q", None)).await, "which");
    let name = |length: usize| Some(v1::get_message_request::Which::DedupId("é".repeat(length)));
    let longest = service
        .queue
        .get_message(get("q", name(64)))
        .await
        .expect_err("it is not there");
    assert_eq!(longest.code(), Code::NotFound);
    refused(service.queue.get_message(get("q", name(65))).await, "dedup_id");
    service.stop().await;
}

#[tokio::test]
async fn names_of_messages_have_limits() {
    let mut service = Service::start().await;
    let key = |key: &str| enqueue(vec![keyed(key, "m")]);
    let dedup_id = |id: &str| {
        enqueue(vec![v1::NewMessage {
            dedup_id: id.to_owned(),
            ..message("m")
        }])
    };
    let (longest, too_long) = ("é".repeat(64), "é".repeat(64) + "x");
    service.queue.enqueue(key(&longest)).await.expect("it fits");
    service.queue.enqueue(dedup_id(&longest)).await.expect("it fits");
    for bad in [too_long.as_str(), "a\0b", "\0"] {
        refused(service.queue.enqueue(key(bad)).await, "messages[0].ordering_key");
        refused(service.queue.enqueue(dedup_id(bad)).await, "messages[0].dedup_id");
        let commit = v1::CommitRequest {
            enqueues: vec![message("m"), keyed(bad, "m")],
            ..Default::default()
        };
        refused(service.kv.commit(commit).await, "enqueues[1].ordering_key");
    }
    // Names that mean something to others mean nothing here.
    for odd in ["%", "_", "'; drop table message; --", " ", "\u{10ffff}", "K", "k"] {
        service.queue.enqueue(key(odd)).await.expect("it is a name");
    }
    assert_eq!(service.receive().await.len(), 9, "nine keys are nine");
    service.stop().await;
}

#[tokio::test]
async fn messages_are_listed_page_by_page() {
    let mut service = Service::start().await;
    let mut sent = Vec::new();
    for _ in 0..3 {
        sent.extend(service.send(vec![message("m"), keyed("k", "m"), message("m")]).await);
    }
    service.receive().await;
    sent.extend(service.send(vec![message("m")]).await);
    let page = |page_token: &str| v1::ListMessagesRequest {
        page_size: 3,
        page_token: page_token.to_owned(),
        ..list(v1::MessageState::Unspecified)
    };
    let mut seen = Vec::new();
    let mut token = String::new();
    for left in (0..4).rev() {
        let answer = service
            .queue
            .list_messages(page(&token))
            .await
            .expect("it lists")
            .into_inner();
        seen.extend(answer.messages.iter().map(|message| message.id));
        token = answer.next_page_token;
        assert_eq!(token.is_empty(), left == 0);
        if left == 3 {
            for other in [
                v1::ListMessagesRequest {
                    state: Ready.into(),
                    ..page(&token)
                },
                v1::ListMessagesRequest {
                    queue: "other".to_owned(),
                    ..page(&token)
                },
                v1::ListMessagesRequest {
                    omit_bodies: true,
                    ..page(&token)
                },
                page("AAAA"),
                page(&token[..token.len() - 2]),
            ] {
                refused(service.queue.list_messages(other).await, "page_token");
            }
            let queues = v1::ListQueuesRequest {
                page_size: 0,
                page_token: token.clone(),
            };
            refused(service.queue.list_queues(queues).await, "page_token");
        }
    }
    assert_eq!(seen, sent);

    let without = v1::ListMessagesRequest {
        omit_bodies: true,
        ..list(Ready)
    };
    let answer = service
        .queue
        .list_messages(without)
        .await
        .expect("it lists")
        .into_inner();
    assert!(answer.messages.iter().all(|message| message.content.is_none()));
    let most = i32::try_from(LIST_ROWS_MAX).expect("it fits");
    let size = |page_size| v1::ListMessagesRequest {
        page_size,
        ..list(Ready)
    };
    service.queue.list_messages(size(most)).await.expect("so many are fine");
    refused(service.queue.list_messages(size(most + 1)).await, "page_size");
    refused(service.queue.list_messages(size(-1)).await, "page_size");
    let unknown = v1::ListMessagesRequest {
        state: 99,
        ..list(Ready)
    };
    refused(service.queue.list_messages(unknown).await, "state");
    let unknown = v1::ListMessagesRequest {
        queue: "unknown".to_owned(),
        ..list(Ready)
    };
    let status = service.queue.list_messages(unknown).await.expect_err("nobody used it");
    assert_eq!(status.code(), Code::NotFound);
    service.stop().await;
}

#[tokio::test]
async fn a_page_of_messages_ends_at_its_size() {
    let mut service = Service::start().await;
    let large = message(&"x".repeat(LIST_BYTES / 4));
    service.send(vec![large; 6]).await;
    let mut request = list(Ready);
    let mut pages = Vec::new();
    loop {
        let page = service
            .queue
            .list_messages(request.clone())
            .await
            .expect("it lists")
            .into_inner();
        pages.push(page.messages.len());
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(pages, [4, 2]);
    service.stop().await;
}

#[tokio::test]
async fn finished_messages_leave_nothing_behind() {
    let mut service = Service::start().await;
    service.one_in_each_state().await;
    let tables: BTreeSet<_> = service.rows().into_keys().collect();
    let all = ["dedup", "failure", "message", "message_body", "queue"];
    assert_eq!(tables, all.map(str::to_owned).into(), "every table is used");
    // The leases and delays end; everything is acked, but for the dead one.
    service.clock.advance_ms(310_000);
    let mut acked = 0;
    while acked < 4 {
        let deliveries = within(service.queue.receive(waiting()))
            .await
            .expect("it receives")
            .into_inner();
        assert!(!deliveries.deliveries.is_empty(), "{acked} acked");
        for delivery in &deliveries.deliveries {
            service.done(&delivery.receipt, ack()).await;
            acked += 1;
        }
    }
    assert_eq!(service.purge(&[], &[Dead]).await, (1, false));
    service.clock.advance_ms(600_000);
    within(async {
        while service.rows().contains_key("dedup") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(service.rows(), [("queue".to_owned(), 1)].into());
    let stats = service.stats().await;
    assert_eq!(stats, v1::QueueStats::default());
    service.stop().await;
}
