//! What more than one service needs: telemetry, signals and the clock. Knows no service and no wire.

pub mod clock;
pub mod signal;
pub mod telemetry;
