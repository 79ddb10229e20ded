//! What more than one service needs: telemetry, signals, secrets and the clock. Knows no service and no wire.

pub mod clock;
pub mod secret;
pub mod signal;
pub mod telemetry;
