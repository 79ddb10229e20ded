//! storage-svc
fn main() {}
