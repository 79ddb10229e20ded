//! The service at its border: real sockets, a real file, a clock that the tests hold.

mod files;
mod keys;
mod limits;
mod messages;
mod model;
mod serving;
mod support;
