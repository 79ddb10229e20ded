//! Random histories of queues. Numbers choose among what there is when the step is taken.

use proptest::prelude::*;
use proto::v1;
use proto::v1::MessageState;

use super::messages::duration;

/// Two with settings of their own, and one that is made by use.
pub(super) const QUEUES: [&str; 3] = ["left", "right", "used"];
/// What an update can name.
const PATHS: [&str; 8] = [
    "lease",
    "max_attempts",
    "backoff",
    "backoff.initial",
    "dedup_window",
    "dead_retention",
    "max_depth",
    "paused",
];

#[derive(Clone, Debug)]
pub(super) enum Step {
    Enqueue(Vec<NewStep>, Option<u8>),
    Commit(CommitStep),
    Receive {
        queue: usize,
        max_messages: u32,
        lease_ms: Option<i64>,
    },
    Settle(Vec<(usize, ActionStep)>),
    Create(usize, v1::QueueSettings),
    Update(usize, v1::QueueSettings, Vec<&'static str>),
    Delete(usize, bool),
    Redrive(usize, Vec<usize>),
    Purge(usize, Vec<usize>, Vec<i32>),
    /// Pages of messages in a state, and one message by either of its names.
    Look {
        queue: usize,
        state: i32,
        page_size: i32,
        omit_bodies: bool,
        message: usize,
        dedup_id: u8,
    },
    Pass(i64),
    Restart,
}

#[derive(Clone, Debug)]
pub(super) struct NewStep {
    pub(super) queue: usize,
    pub(super) ordering_key: Option<u8>,
    pub(super) dedup_id: Option<u8>,
    pub(super) delay_ms: i64,
}

#[derive(Clone, Debug)]
pub(super) struct CommitStep {
    pub(super) check_holds: bool,
    pub(super) writes_key: bool,
    pub(super) enqueues: Vec<NewStep>,
    pub(super) settlements: Vec<(usize, ActionStep)>,
    pub(super) request_id: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ActionStep {
    Ack,
    Nack { delay_ms: Option<i64>, refund: bool },
    Extend(i64),
    Dead,
}

/// Spans that meet each other's ends, because that is where mistakes are.
fn span() -> impl Strategy<Value = i64> {
    prop::sample::select(vec![0, 1, 499, 500, 999, 1_000, 2_000])
}

fn lease() -> impl Strategy<Value = i64> {
    prop::sample::select(vec![100, 500, 1_000, 2_000, 30_000])
}

fn queue() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0_usize), 2 => Just(1_usize), 1 => Just(2_usize)]
}

fn settings() -> impl Strategy<Value = v1::QueueSettings> {
    let seconds = |most: Vec<i64>| prop::option::of(prop::sample::select(most));
    (
        prop::option::of(lease()),
        prop::option::weighted(0.8, 1..4_u32),
        (seconds(vec![0, 500, 1_000]), seconds(vec![0, 1_000, 2_000, 60_000])),
        seconds(vec![0, 500, 1_000, 3_000]),
        seconds(vec![0, 1_000, 2_000, 5_000]),
        prop::option::weighted(0.3, prop::sample::select(vec![1, 2, 3, 5, 1_000])),
        prop::option::weighted(0.2, prop::bool::weighted(0.3)),
    )
        .prop_map(
            |(lease, max_attempts, (initial, max), window, retention, max_depth, paused)| v1::QueueSettings {
                lease: lease.map(duration),
                max_attempts,
                backoff: Some(v1::BackoffPolicy {
                    initial: initial.map(duration),
                    max: max.map(duration),
                    jitter_percent: Some(0),
                }),
                dedup_window: window.map(duration),
                dead_retention: retention.map(duration),
                max_depth,
                paused,
            },
        )
}

fn new_message() -> impl Strategy<Value = NewStep> {
    (
        queue(),
        prop::option::weighted(0.6, 0..2_u8),
        prop::option::weighted(0.3, 0..2_u8),
        prop_oneof![3 => Just(0), 1 => span()],
    )
        .prop_map(|(queue, ordering_key, dedup_id, delay_ms)| NewStep {
            queue,
            ordering_key,
            dedup_id,
            delay_ms,
        })
}

fn settlements() -> impl Strategy<Value = Vec<(usize, ActionStep)>> {
    let action = prop_oneof![
        3 => Just(ActionStep::Ack),
        3 => (prop::option::of(span()), prop::bool::weighted(0.3))
            .prop_map(|(delay_ms, refund)| ActionStep::Nack { delay_ms, refund }),
        1 => lease().prop_map(ActionStep::Extend),
        2 => Just(ActionStep::Dead),
    ];
    prop::collection::vec((0..64_usize, action), 0..4)
}

fn states() -> impl Strategy<Value = Vec<i32>> {
    let state = prop::sample::select(vec![
        MessageState::Delayed,
        MessageState::Ready,
        MessageState::Leased,
        MessageState::Dead,
        MessageState::Blocked,
    ]);
    prop::collection::vec(state.prop_map(i32::from), 0..3)
}

/// The settings of the first two queues, and what is done.
pub(super) fn history() -> impl Strategy<Value = (Vec<v1::QueueSettings>, Vec<Step>)> {
    let id = || prop::option::weighted(0.3, 0..3_u8);
    let ids = || prop_oneof![Just(Vec::new()), prop::collection::vec(0..16_usize, 1..3)];
    let new_messages = |least| prop::collection::vec(new_message(), least..4_usize);
    let commit = (
        prop::bool::weighted(0.9),
        any::<bool>(),
        new_messages(0),
        settlements(),
        id(),
    )
        .prop_map(|(check_holds, writes_key, enqueues, settlements, request_id)| {
            Step::Commit(CommitStep {
                check_holds,
                writes_key,
                enqueues,
                settlements,
                request_id,
            })
        });
    let receive =
        (queue(), 0..4_u32, prop::option::weighted(0.3, lease())).prop_map(|(queue, max_messages, lease_ms)| {
            Step::Receive {
                queue,
                max_messages,
                lease_ms,
            }
        });
    let look = (queue(), 0..6_i32, 0..3_i32, any::<bool>(), 0..16_usize, 0..2_u8).prop_map(
        |(queue, state, page_size, omit_bodies, message, dedup_id)| Step::Look {
            queue,
            state,
            page_size,
            omit_bodies,
            message,
            dedup_id,
        },
    );
    let paths = prop::collection::vec(prop::sample::select(PATHS.to_vec()), 0..3);
    let step = prop_oneof![
        16 => (new_messages(1), id()).prop_map(|(messages, id)| Step::Enqueue(messages, id)),
        12 => commit,
        24 => receive,
        16 => settlements().prop_map(Step::Settle),
        2 => (queue(), settings()).prop_map(|(queue, settings)| Step::Create(queue, settings)),
        4 => (queue(), settings(), paths).prop_map(|(queue, settings, paths)| Step::Update(queue, settings, paths)),
        1 => (queue(), any::<bool>()).prop_map(|(queue, force)| Step::Delete(queue, force)),
        6 => (queue(), ids()).prop_map(|(queue, ids)| Step::Redrive(queue, ids)),
        3 => (queue(), ids(), states()).prop_map(|(queue, ids, states)| Step::Purge(queue, ids, states)),
        4 => look,
        20 => prop_oneof![8 => span(), 2 => lease(), 1 => Just(600_000)].prop_map(Step::Pass),
        1 => prop::bool::weighted(0.5).prop_map(|is_so| if is_so { Step::Restart } else { Step::Pass(1) }),
    ];
    (prop::collection::vec(settings(), 2), prop::collection::vec(step, 1..40))
}
