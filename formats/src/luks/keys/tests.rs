//! Tests of key slot changes.
