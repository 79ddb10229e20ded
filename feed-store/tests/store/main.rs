//! The feed's documents in a real store, called in memory; what happens between two of its answers is up to the test.

mod bounds;
mod moments;
mod support;
mod sweeps;
mod withdrawals;
