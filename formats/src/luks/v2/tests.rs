//! Tests of LUKS2.
