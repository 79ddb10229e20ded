//! The rows of one message.

use rusqlite::{Connection, OptionalExtension as _, Row};

use super::lately::Lately;
use super::{failure, order};
use crate::error::StoreError;
use crate::model::MessageState;

const MESSAGE: &str = "select id, queue_id, state, due_ms, epoch, attempt, ordering_key from message where id = ?";
const DELETE: &str = "delete from message where id = ?";
const DELETE_BODY: &str = "delete from message_body where id = ?";

#[cfg(test)]
pub(super) const STATEMENTS: [&str; 3] = [MESSAGE, DELETE, DELETE_BODY];

/// What moving a message takes to know of it.
#[derive(Debug)]
pub(in crate::store) struct Message {
    pub(super) id: i64,
    pub(super) queue_id: i64,
    pub(super) state: MessageState,
    pub(super) due_ms: i64,
    pub(super) epoch: i64,
    pub(super) attempt: i64,
    pub(super) ordering_key: Option<String>,
}

impl Message {
    /// Columns in the order of the statement above.
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            queue_id: row.get(1)?,
            state: state(row.get(2)?)?,
            due_ms: row.get(3)?,
            epoch: row.get(4)?,
            attempt: row.get(5)?,
            ordering_key: row.get(6)?,
        })
    }

    /// Takes the message out of the file, with all that belongs to it; the next one of its ordering key may go.
    pub(super) fn remove(&self, connection: &Connection, now_ms: i64, lately: &mut Lately) -> Result<(), StoreError> {
        connection.prepare_cached(DELETE)?.execute([self.id])?;
        connection.prepare_cached(DELETE_BODY)?.execute([self.id])?;
        failure::forget(connection, self.id)?;
        lately.leaves(self.queue_id, self.id, self.state);
        if self.state.holds_its_key() {
            order::advance(connection, now_ms, self.queue_id, self.ordering_key.as_deref(), lately)?;
        }
        Ok(())
    }
}

/// One message, if there is one.
pub(super) fn find(connection: &Connection, id: i64) -> Result<Option<Message>, StoreError> {
    let mut statement = connection.prepare_cached(MESSAGE)?;
    Ok(statement.query_row([id], Message::read).optional()?)
}

/// The state that a row names.
pub(super) fn state(number: i64) -> rusqlite::Result<MessageState> {
    MessageState::ALL
        .into_iter()
        .find(|state| *state as i64 == number)
        .ok_or(rusqlite::Error::IntegralValueOutOfRange(2, number))
}
