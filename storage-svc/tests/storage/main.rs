//! The service at its border: real sockets, a real file, a clock that the tests hold.

mod access;
mod admin;
mod backup;
mod consume;
mod damage;
mod dead_letters;
mod dedup;
mod files;
mod guarded;
mod inspection;
mod keys;
mod limits;
mod messages;
mod migrations;
mod model;
mod operator;
mod ordering;
mod queue_settings;
mod queues;
mod restore;
mod scan_stream;
mod serving;
mod support;
mod tls;
mod unix_socket;
mod watch;
