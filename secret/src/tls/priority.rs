//! The option `priority`: a GnuTLS priority string, as far as there is something to choose here.
//!
//! TLS 1.2 and 1.3 with forward secrecy and authenticated ciphers are all there is. A string may choose among these; removing
//! what is not there anyway changes nothing, and asking for anything else is refused when the object is made.

use crate::{Error, Result};
use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::version::{TLS12, TLS13};

/// What was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Priority {
    tls12: bool,
    tls13: bool,
    ciphers: Ciphers,
}

/// Which ciphers there are; by the names GnuTLS has for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ciphers {
    aes128: bool,
    aes256: bool,
    chacha20: bool,
}

/// What is never offered here, so that it can be removed.
const ABSENT: [&str; 22] = [
    "VERS-SSL3.0",
    "VERS-TLS1.0",
    "VERS-TLS1.1",
    "VERS-DTLS-ALL",
    "VERS-DTLS1.0",
    "VERS-DTLS1.2",
    "3DES-CBC",
    "ARCFOUR-128",
    "AES-128-CBC",
    "AES-256-CBC",
    "AES-128-CCM",
    "AES-256-CCM",
    "CAMELLIA-128-CBC",
    "CAMELLIA-256-CBC",
    "RSA",
    "DHE-RSA",
    "DHE-DSS",
    "MD5",
    "SHA1",
    "SIGN-RSA-MD5",
    "SIGN-RSA-SHA1",
    "COMP-ALL",
];

/// Sets of algorithms that hold all of ours, and those that hold only the strong ones.
const ALL: [&str; 6] = ["NORMAL", "PERFORMANCE", "PFS", "SECURE128", "SECURE", "@SYSTEM"];
const STRONG: [&str; 3] = ["SECURE192", "SECURE256", "SUITEB192"];

impl Priority {
    /// Reads a priority string; without one, everything is chosen.
    ///
    /// # Errors
    /// Words that mean nothing here, or a choice that leaves nothing.
    pub(super) fn parse(text: Option<&str>) -> Result<Self> {
        Self::parse_with(text, &[])
    }

    /// The same, where these key exchanges are there (and used whether asked for or not).
    ///
    /// # Errors
    /// As for [`Priority::parse`].
    pub(super) fn parse_with(text: Option<&str>, exchanges: &[&str]) -> Result<Self> {
        let text = text.unwrap_or("NORMAL");
        let bad = |why: String| {
            Error::invalid(format!("TLS priority string '{text}' is not supported: {why}")).with_hint(
                "Supported are NORMAL, SECURE128 and SECURE256, followed by any of :-VERS-TLS1.2 :-VERS-TLS1.3 \
                 :-AES-128-GCM :-AES-256-GCM :-CHACHA20-POLY1305.",
            )
        };
        let mut words = text.split(':').filter(|word| !word.is_empty());
        let first = words.next().unwrap_or_default();
        let set = first.split(',').next().unwrap_or_default();
        let mut chosen =
            Priority::set(set).ok_or_else(|| bad(format!("'{first}' is no set of algorithms here")))?;
        for word in words {
            if word.strip_prefix('+').is_some_and(|name| exchanges.contains(&name)) {
                continue;
            }
            chosen.change(word).ok_or_else(|| bad(format!("'{word}' means nothing here")))?;
        }
        let ciphers = chosen.ciphers.aes128 || chosen.ciphers.aes256 || chosen.ciphers.chacha20;
        if !ciphers || !(chosen.tls12 || chosen.tls13) {
            return Err(bad("it leaves nothing to choose from".into()));
        }
        Ok(chosen)
    }

    fn set(name: &str) -> Option<Self> {
        let aes128 = if STRONG.contains(&name) { false } else { ALL.contains(&name).then_some(true)? };
        let ciphers = Ciphers { aes128, aes256: true, chacha20: true };
        Some(Priority { tls12: true, tls13: true, ciphers })
    }

    fn change(&mut self, word: &str) -> Option<()> {
        // Flags of GnuTLS's own behaviour.
        if word.starts_with('%') {
            return Some(());
        }
        let (on, name) = match word.strip_prefix('+') {
            Some(name) => (true, name),
            None => (false, word.strip_prefix(['-', '!'])?),
        };
        match name {
            "VERS-ALL" | "VERS-TLS-ALL" => (self.tls12, self.tls13) = (on, on),
            "VERS-TLS1.2" => self.tls12 = on,
            "VERS-TLS1.3" => self.tls13 = on,
            "CIPHER-ALL" => self.ciphers = Ciphers { aes128: on, aes256: on, chacha20: on },
            "AES-128-GCM" => self.ciphers.aes128 = on,
            "AES-256-GCM" => self.ciphers.aes256 = on,
            "CHACHA20-POLY1305" => self.ciphers.chacha20 = on,
            absent if !on && ABSENT.contains(&absent) => {}
            _ => return None,
        }
        Some(())
    }

    /// Whether TLS 1.2 was chosen.
    #[cfg(feature = "tls-openssl")]
    pub(super) fn has_tls12(self) -> bool {
        self.tls12
    }

    /// Whether TLS 1.3 was chosen.
    #[cfg(feature = "tls-openssl")]
    pub(super) fn has_tls13(self) -> bool {
        self.tls13
    }

    /// The protocol versions.
    pub(super) fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
        match (self.tls12, self.tls13) {
            (true, false) => &BOTH[1..],
            (false, true) => &BOTH[..1],
            _ => &BOTH,
        }
    }

    /// The algorithms.
    pub(super) fn provider(self) -> CryptoProvider {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| {
            let name = format!("{:?}", suite.suite());
            [
                ("AES_128", self.ciphers.aes128),
                ("AES_256", self.ciphers.aes256),
                ("CHACHA20", self.ciphers.chacha20),
            ]
            .iter()
            .any(|(part, on)| *on && name.contains(part))
        });
        provider
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_can_be_chosen_from() {
        let versions = |text: &str| Priority::parse(Some(text)).unwrap().versions().len();
        assert_eq!(versions("NORMAL"), 2);
        assert_eq!(versions("NORMAL:-VERS-TLS1.3"), 1);
        assert_eq!(versions("SECURE256:-VERS-ALL:+VERS-TLS1.3:-SHA1:%COMPAT"), 1);
        let suites = |text: &str| Priority::parse(Some(text)).unwrap().provider().cipher_suites.len();
        assert!(suites("SECURE192") < suites("NORMAL"));
        assert_eq!(suites("NORMAL:-CIPHER-ALL:+AES-256-GCM:-VERS-TLS1.2"), 3);
    }

    #[test]
    fn what_is_not_there_cannot_be_asked_for() {
        for text in [
            "LEGACY",
            "NORMAL:+VERS-TLS1.0",
            "NORMAL:+ANON-DH",
            "NORMAL:-VERS-ALL",
            "NORMAL:rubbish",
            ":",
            "NORMAL:-CIPHER-ALL",
        ] {
            assert!(Priority::parse(Some(text)).is_err(), "{text}");
        }
    }
}
