//! Whatever is accepted takes effect once, in the order it was accepted, however its messages are delivered and whoever
//! was faster: random histories of writes and deliveries, and every short one, over `accept` and `apply` themselves,
//! against a store that keeps keys in memory and a model of what clients expect.

mod exhaustive;
mod history;
mod model;
mod settled;
mod store;

use feed::id::Kind;
use proptest::prelude::*;

use crate::history::{Act, History, Verb};

/// Documents of each kind that a history is about.
const TARGETS: usize = 2;

/// Something is done on what was read before others were done: those were faster.
#[derive(Clone, Debug)]
struct Step {
    act: Act,
    faster: Vec<Act>,
}

fn act() -> impl Strategy<Value = Act> {
    let verb = prop_oneof![
        3 => Just(Verb::Create),
        2 => Just(Verb::Replace),
        2 => Just(Verb::PatchTitle),
        2 => Just(Verb::PatchOther),
        1 => Just(Verb::Delete)
    ];
    let kind = || prop_oneof![Just(Kind::Playlist), Just(Kind::Channel)];
    let write = (
        kind(),
        0..TARGETS,
        verb,
        any::<bool>(),
        prop::collection::vec(0..TARGETS, 1..4),
    );
    prop_oneof![
        6 => write.prop_map(|(kind, target, verb, queued, links)| Act::Write { kind, target, verb, queued, links }),
        4 => (0..20_usize).prop_map(Act::Deliver),
        1 => (kind(), 0..TARGETS).prop_map(|(kind, target)| Act::Rewrite(kind, target)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let faster = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec(act(), 1..3)
    ];
    (act(), faster).prop_map(|(act, faster)| Step { act, faster })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_was_accepted_last_is_what_is_there_in_the_end(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut history = History::new(seed);
        for step in &steps {
            history.perform(&step.act, &step.faster);
        }
        history.settle_and_check();
    }
}

fn write(kind: Kind, verb: Verb, queued: bool, links: &[usize]) -> Act {
    Act::Write {
        kind,
        target: 0,
        verb,
        queued,
        links: links.to_vec(),
    }
}

/// Each pair of acts that can be in each other's way, in each form: the first, planned before the second was committed,
/// loses exactly if what it read has changed (which `perform` asserts), and both effects hold in the end.
#[test]
fn every_write_that_was_planned_on_what_has_changed_since_is_planned_anew() {
    const LATE: [(Kind, Verb); 8] = [
        (Kind::Playlist, Verb::Create),
        (Kind::Playlist, Verb::Replace),
        (Kind::Playlist, Verb::PatchTitle),
        (Kind::Playlist, Verb::Delete),
        (Kind::Channel, Verb::Create),
        (Kind::Channel, Verb::Replace),
        (Kind::Channel, Verb::PatchOther),
        (Kind::Channel, Verb::Delete),
    ];
    let mut lost = 0;
    for before in [false, true] {
        for (late_kind, late_verb) in LATE {
            for (kind, verb) in LATE {
                for (late_queued, queued) in [(false, false), (false, true), (true, false), (true, true)] {
                    let mut history = History::new(7);
                    // A playlist, and a channel that refers to it; queued ones can be delivered between.
                    history.perform(&write(Kind::Playlist, Verb::Create, before, &[0]), &[]);
                    history.perform(&write(Kind::Channel, Verb::Create, before, &[0]), &[]);
                    let late = write(late_kind, late_verb, late_queued, &[0]);
                    let first = write(kind, verb, queued, &[0, 0]);
                    lost += history.perform(&late, std::slice::from_ref(&first));
                    lost += history.perform(&late, &[Act::Deliver(0), first]);
                    lost += history.perform(&Act::Deliver(1), &[late, Act::Deliver(1)]);
                    history.settle_and_check();
                }
            }
        }
    }
    assert!(lost > 100, "{lost} acts were planned anew");
}

#[test]
fn a_delivery_is_planned_anew_when_what_it_applies_to_has_changed() {
    for kind in [Kind::Playlist, Kind::Channel] {
        let mut history = History::new(7);
        history.perform(&write(Kind::Playlist, Verb::Create, false, &[0]), &[]);
        history.perform(&write(Kind::Channel, Verb::Create, false, &[0]), &[]);
        history.perform(&write(kind, Verb::PatchOther, true, &[0, 0]), &[]);
        assert_eq!(history.perform(&Act::Deliver(0), &[Act::Rewrite(kind, 0)]), 1);
        history.settle_and_check();
    }
}
