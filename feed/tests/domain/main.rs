//! The domain at its public border: tables of inputs and answers, vectors of other implementations, and properties.

mod documents;
mod json;
mod names;
mod paging;
mod signing;
mod support;
mod validation;
