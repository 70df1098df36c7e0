//! Requests that only one worker can open, and the words around them.
#![forbid(unsafe_code)]
