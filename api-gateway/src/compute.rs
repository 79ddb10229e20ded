//! Long computations, kept from holding up requests that wait for nothing but a free thread.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Work on fewer bytes than this is done where it stands: it is over before a thread could be handed over.
const LARGE_BYTES: usize = 256 * 1024;

/// Parses, signs or prints about so many bytes. If they are many, other tasks of this thread move to another one first;
/// a runtime of one thread has none, and they wait.
pub(crate) fn over<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let has_other_threads = || Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
    if bytes >= LARGE_BYTES && has_other_threads() {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}
