//! What more than one service needs: telemetry, signals, secrets, the port of figures and readiness, and the clock. Knows no
//! service and no wire.

pub mod clock;
pub mod metrics;
pub mod secret;
pub mod signal;
pub mod telemetry;
