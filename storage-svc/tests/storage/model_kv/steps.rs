//! Random histories of keys. Numbers choose among what there is when the step is taken.

use std::sync::LazyLock;

use proptest::prelude::*;

/// Keys that meet each other's bounds, that SQL or a path would take for something else, and the longest there are.
pub(super) static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let short = ["a", "a/", "a/1", "a/\u{10ffff}", "a%", "a_b", "a\u{10ffff}", "b", "é"];
    let mut keys: Vec<String> = short.map(str::to_owned).into();
    keys.extend(["k".repeat(512), "\u{10ffff}".repeat(128)]);
    keys
});
/// As many as there are.
pub(super) const KEY_COUNT: usize = 11;
/// Keys that are none.
pub(super) static BAD_KEYS: LazyLock<Vec<String>> =
    LazyLock::new(|| vec![String::new(), "a\0b".to_owned(), "k".repeat(513), "é".repeat(257)]);
/// What scans and prefix checks begin with.
pub(super) static PREFIXES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let short = ["", "a", "a/", "a%", "_", "a\u{10ffff}", "é"];
    let mut prefixes: Vec<String> = short.map(str::to_owned).into();
    prefixes.extend(["k".repeat(512), "k".repeat(511)]);
    prefixes
});

/// A key of one of the two namespaces: even numbers are the first one's.
pub(super) type KeyNumber = usize;

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Calls that are under way at once.
    Together(Vec<Call>),
    /// All pages of a scan, with a write between each two.
    Pages(ScanStep, Vec<WriteStep>),
    Stream(ScanStep),
    /// From so many revisions back.
    Watch(WatchStep),
    Pass(i64),
    Restart,
}

#[derive(Clone, Debug)]
pub(super) enum Call {
    Write(WriteStep),
    /// A write with a request id that was sent before, once more.
    Again(usize),
    Get(KeyNumber, View),
    BatchGet(Vec<KeyNumber>, View),
    Scan(ScanStep),
}

/// How a reader wants contents.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) omit_values: bool,
    pub(super) as_bytes: bool,
}

#[derive(Clone, Debug)]
pub(super) struct WriteStep {
    pub(super) kind: Kind,
    pub(super) checks: Vec<(KeyNumber, CheckStep)>,
    pub(super) mutations: Vec<(KeyNumber, Option<PutStep>)>,
    pub(super) request_id: Option<u8>,
    /// Breaks a rule: one of its keys is none, or the same as another.
    pub(super) bad: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Put,
    Delete,
    Commit,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum CheckStep {
    /// What is there, so that it holds unless another call is first.
    Current,
    Revision(u64),
    Exists(bool),
    PrefixUnchanged {
        prefix: usize,
        back: u64,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct PutStep {
    pub(super) content: ContentStep,
    pub(super) expiry: ExpiryStep,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ContentStep {
    /// Some lie in the entry's row and some do not.
    Text(u8),
    Bytes(u8),
    /// Names a record.
    Key(usize),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ExpiryStep {
    Never,
    After(i64),
    At(i64),
}

#[derive(Clone, Debug)]
pub(super) struct ScanStep {
    pub(super) selector: SelectorStep,
    pub(super) reverse: bool,
    pub(super) page_size: usize,
    /// Whether rows without a record are left out.
    pub(super) dereference: Option<bool>,
    pub(super) view: View,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum SelectorStep {
    All(usize),
    Prefix(usize, usize),
    Range(usize, Option<usize>, Option<usize>),
}

#[derive(Clone, Debug)]
pub(super) struct WatchStep {
    pub(super) back: u64,
    pub(super) selectors: Vec<SelectorStep>,
    pub(super) view: View,
}

/// Spans that meet each other's ends, because that is where mistakes are.
fn span() -> impl Strategy<Value = i64> {
    prop::sample::select(vec![0, 1, 499, 500, 999, 1_000, 2_000])
}

fn view() -> impl Strategy<Value = View> {
    (prop::bool::weighted(0.2), prop::bool::weighted(0.2))
        .prop_map(|(omit_values, as_bytes)| View { omit_values, as_bytes })
}

fn key() -> impl Strategy<Value = KeyNumber> {
    // Few keys are meant often, so that calls meet.
    prop_oneof![3 => 0..6_usize, 1 => 0..KEY_COUNT * 2]
}

fn put() -> impl Strategy<Value = PutStep> {
    let content = prop_oneof![
        2 => any::<u8>().prop_map(ContentStep::Text),
        1 => any::<u8>().prop_map(ContentStep::Bytes),
        2 => (0..KEY_COUNT).prop_map(ContentStep::Key),
    ];
    let expiry = prop_oneof![
        3 => Just(ExpiryStep::Never),
        1 => span().prop_map(|span| ExpiryStep::After(span.max(1))),
        1 => (-1..3_i64).prop_map(|seconds| ExpiryStep::At(seconds * 1_000)),
    ];
    (content, expiry).prop_map(|(content, expiry)| PutStep { content, expiry })
}

fn write() -> impl Strategy<Value = WriteStep> {
    let kind = prop_oneof![2 => Just(Kind::Put), 1 => Just(Kind::Delete), 4 => Just(Kind::Commit)];
    let check = prop_oneof![
        5 => Just(CheckStep::Current),
        1 => (0..4_u64).prop_map(CheckStep::Revision),
        1 => any::<bool>().prop_map(CheckStep::Exists),
        2 => (0..9_usize, 0..3_u64).prop_map(|(prefix, back)| CheckStep::PrefixUnchanged { prefix, back }),
    ];
    let mutation = (key(), prop::option::weighted(0.7, put()));
    (
        kind,
        prop::collection::vec((key(), check), 0..3),
        prop::collection::vec(mutation, 0..4),
        prop::option::weighted(0.3, 0..3_u8),
        prop::option::weighted(0.04, 0..8_usize),
    )
        .prop_map(|(kind, checks, mutations, request_id, bad)| WriteStep {
            kind,
            checks,
            mutations,
            request_id,
            bad,
        })
}

fn selector() -> impl Strategy<Value = SelectorStep> {
    let bound = || prop::option::weighted(0.8, 0..KEY_COUNT);
    prop_oneof![
        1 => (0..2_usize).prop_map(SelectorStep::All),
        3 => (0..2_usize, 0..9_usize).prop_map(|(namespace, prefix)| SelectorStep::Prefix(namespace, prefix)),
        2 => (0..2_usize, bound(), bound()).prop_map(|(namespace, start, end)| SelectorStep::Range(namespace, start, end)),
    ]
}

fn scan() -> impl Strategy<Value = ScanStep> {
    let page_size = prop_oneof![4 => 1..4_usize, 1 => Just(0_usize)];
    (
        selector(),
        any::<bool>(),
        page_size,
        prop::option::weighted(0.4, any::<bool>()),
        view(),
    )
        .prop_map(|(selector, reverse, page_size, dereference, view)| ScanStep {
            selector,
            reverse,
            page_size,
            dereference,
            view,
        })
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let call = prop_oneof![
        8 => write().prop_map(Call::Write),
        1 => (0..8_usize).prop_map(Call::Again),
        1 => (key(), view()).prop_map(|(key, view)| Call::Get(key, view)),
        1 => (prop::collection::vec(key(), 1..5), view()).prop_map(|(keys, view)| Call::BatchGet(keys, view)),
        1 => scan().prop_map(Call::Scan),
    ];
    let watch = (0..12_u64, prop::collection::vec(selector(), 1..3), view())
        .prop_map(|(back, selectors, view)| Step::Watch(WatchStep { back, selectors, view }));
    let step = prop_oneof![
        24 => prop::collection::vec(call, 1..5).prop_map(Step::Together),
        4 => (scan(), prop::collection::vec(write(), 0..4)).prop_map(|(scan, writes)| Step::Pages(scan, writes)),
        2 => scan().prop_map(Step::Stream),
        2 => watch,
        8 => prop_oneof![12 => span(), 1 => Just(599_999), 1 => Just(600_000)].prop_map(Step::Pass),
        1 => prop::bool::weighted(0.3).prop_map(|is_so| if is_so { Step::Restart } else { Step::Pass(1) }),
    ];
    prop::collection::vec(step, 1..24)
}
