//! Requests that nobody would send: random bytes, damaged encodings, and messages of random fields, to every method of
//! the contract. None may panic or be answered as a fault of the service, and the store must be as good as before.

mod damage;
mod random;
mod raw;

use std::cell::RefCell;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use proto::v1;
use tonic::Code;

use self::damage::{Damage, damage};
use self::random::{Seen, Source, message};
use crate::in_process::{InProcess, cases, runtime};
use crate::support::within;

/// Calls that wait, and streams without an end, are given so long.
const PATIENCE: Duration = Duration::from_millis(20);
/// The store is asked for its health after so many cases.
const CASES_BETWEEN_CHECKS: usize = 256;
/// Requests of a stream, at most.
const REQUESTS_MAX: usize = 4;
/// What tonic says of a message that is none.
const NOT_DECODED: &str = "failed to decode Protobuf message";

/// How a request is made up.
#[derive(Clone, Debug)]
enum Kind {
    /// Of fields as the contract has them.
    Fields,
    /// The same, damaged.
    Damaged(Vec<Damage>),
    /// Of nothing.
    Bytes,
    /// The frames of the call, too.
    Frames,
}

#[derive(Clone, Debug)]
struct Case {
    method: prop::sample::Index,
    kind: Kind,
    requests: usize,
    choices: Vec<u8>,
    pass_ms: i64,
}

fn case() -> impl Strategy<Value = Case> {
    let kind = prop_oneof![
        6 => Just(Kind::Fields),
        5 => prop::collection::vec(damage(), 1..4).prop_map(Kind::Damaged),
        2 => Just(Kind::Bytes),
        1 => Just(Kind::Frames),
    ];
    (
        any::<prop::sample::Index>(),
        kind,
        1..=REQUESTS_MAX,
        prop::collection::vec(any::<u8>(), 0..400),
        prop::sample::select(vec![0, 0, 1, 999, 30_000]),
    )
        .prop_map(|(method, kind, requests, choices, pass_ms)| Case {
            method,
            kind,
            requests,
            choices,
            pass_ms,
        })
}

/// What panicked on the threads of this test and of stores.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Panics in tasks and threads that nobody joins would go unnoticed.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default();
            if name.starts_with("fuzz") || name == "writer" || name == "checkpoint" {
                let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
                panics.push(format!("{name}: {panic}"));
            }
            before(panic);
        }));
    });
}

/// Those since the last look. The lock is not held on, because whoever panics then takes it.
fn take_panics() -> Vec<String> {
    std::mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner))
}

struct World {
    service: InProcess,
    seen: Seen,
    cases: usize,
}

impl World {
    fn new() -> Self {
        Self {
            service: InProcess::start(),
            seen: Seen::default(),
            cases: 0,
        }
    }

    async fn play(&mut self, methods: &[MethodDescriptor], case: &Case) {
        self.cases += 1;
        // Of a case that failed.
        take_panics();
        self.service.clock.advance_ms(case.pass_ms);
        let method = case.method.get(methods);
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let mut source = Source::new(&case.choices);
        let count = if method.is_client_streaming() { case.requests } else { 1 };
        let requests: Vec<Bytes> = (0..count)
            .map(|_| self.request(method, &case.kind, &mut source))
            .collect();
        let answer = if matches!(case.kind, Kind::Frames) {
            raw::send_frames(&self.service.routes, &path, requests.concat().into(), PATIENCE).await
        } else {
            raw::send(&self.service.routes, &path, requests.clone(), PATIENCE).await
        };
        for response in &answer.responses {
            let response = DynamicMessage::decode(method.output(), response.clone()).expect("the answer is a message");
            self.seen.note(&response);
        }
        if let Some(status) = answer.status {
            let is_fault = match status.code() {
                Code::Internal if status.message().starts_with(NOT_DECODED) => matches!(case.kind, Kind::Fields),
                // Of frames that are none, or that say they are compressed.
                Code::Internal | Code::Unimplemented => !matches!(case.kind, Kind::Frames),
                Code::Unknown | Code::DataLoss | Code::Unauthenticated => true,
                _ => false,
            };
            assert!(!is_fault, "{path} answers {status:?} to {requests:02x?}");
        }
        self.expect_life(&path);
        if self.cases.is_multiple_of(CASES_BETWEEN_CHECKS) {
            self.check().await;
        }
    }

    fn request(&self, method: &MethodDescriptor, kind: &Kind, source: &mut Source<'_>) -> Bytes {
        match kind {
            Kind::Fields => message(&method.input(), source, &self.seen, 0).encode_to_vec().into(),
            Kind::Damaged(damages) => {
                let mut bytes = message(&method.input(), source, &self.seen, 0).encode_to_vec();
                for damage in damages {
                    damage.apply(&mut bytes);
                }
                bytes.into()
            }
            Kind::Bytes => source.bytes(200).into(),
            Kind::Frames => source.bytes(400).into(),
        }
    }

    fn expect_life(&self, path: &str) {
        let panics = take_panics();
        assert!(panics.is_empty(), "after {path}: {panics:?}");
        let ended = self.service.store.ended();
        assert!(is_pending(ended), "{path} ended the store");
    }

    /// Asserts that the store does what it did, and that its file is sound.
    async fn check(&mut self) {
        let put = v1::PutRequest {
            namespace: "check".to_owned(),
            key: "key".to_owned(),
            ..Default::default()
        };
        let revision = self.service.kv.put(put).await.expect("it writes").into_inner().revision;
        let get = v1::GetRequest {
            namespace: "check".to_owned(),
            key: "key".to_owned(),
            ..Default::default()
        };
        let entry = self.service.kv.get(get).await.expect("it reads").into_inner().entry;
        assert_eq!(entry.map(|entry| entry.revision), Some(revision));
        let enqueue = v1::EnqueueRequest {
            messages: vec![v1::NewMessage {
                queue: "check".to_owned(),
                ..Default::default()
            }],
            request_id: String::new(),
        };
        let added = self
            .service
            .queue
            .enqueue(enqueue)
            .await
            .expect("it enqueues")
            .into_inner();
        let receive = v1::ReceiveRequest {
            queue: "check".to_owned(),
            ..Default::default()
        };
        let received = self
            .service
            .queue
            .receive(receive)
            .await
            .expect("it receives")
            .into_inner();
        let delivery = received.deliveries.into_iter().next().expect("it is ready");
        assert_eq!(delivery.message.map(|message| message.id), Some(added.results[0].id));
        let settle = v1::SettleRequest {
            settlements: vec![v1::Settlement {
                receipt: delivery.receipt,
                action: Some(v1::settlement::Action::Ack(v1::settlement::Ack {})),
            }],
        };
        let settled = self
            .service
            .queue
            .settle(settle)
            .await
            .expect("it settles")
            .into_inner();
        assert_eq!(settled.results[0].status(), v1::settlement_result::Status::Ok);
        self.service.check().await;
    }
}

fn is_pending(future: impl Future) -> bool {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    future.as_mut().poll(&mut context).is_pending()
}

#[test]
fn no_request_does_harm() {
    watch_panics();
    let pool = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).expect("the descriptors are good");
    let methods: Vec<MethodDescriptor> = pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .collect();
    assert!(methods.len() >= 27, "{} methods", methods.len());
    let runtime = runtime("fuzz");
    let world = RefCell::new(None::<World>);
    let mut runner = TestRunner::new(cases(10_000));
    let done = runner.run(&case(), |case| {
        let mut current = world.take().unwrap_or_else(World::new);
        runtime.block_on(within(current.play(&methods, &case)));
        world.replace(Some(current));
        Ok(())
    });
    if let Err(failure) = done {
        panic!("{failure}");
    }
    runtime.block_on(async {
        if let Some(mut current) = world.take() {
            current.check().await;
            current.service.stop().await;
        }
    });
}
