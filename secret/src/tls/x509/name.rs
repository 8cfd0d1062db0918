//! Whether a server's certificate is for the name the client looks for, by the rules GnuTLS has: alternative names decide; the
//! common name only where there is no alternative name of a host.

use super::sanity::{Role, has_purpose};
use std::net::IpAddr;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// Whether `certificate` is for `hostname`, which is a name or an address.
pub(super) fn matches(certificate: &X509Certificate<'_>, hostname: &str) -> bool {
    let alternatives = certificate.subject_alternative_name();
    // There twice or malformed: nothing it says can be relied on.
    let Ok(alternatives) = alternatives else { return false };
    let names: &[GeneralName<'_>] = alternatives.as_ref().map_or(&[], |a| &a.value.general_names);
    if let Ok(address) = hostname.parse::<IpAddr>() {
        return names
            .iter()
            .any(|name| matches!(name, GeneralName::IPAddress(bytes) if is_address(bytes, address)));
    }
    let of_hosts =
        |name: &&GeneralName<'_>| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_));
    if names.iter().any(|name| of_hosts(&name)) {
        return names
            .iter()
            .any(|name| matches!(name, GeneralName::DNSName(pattern) if covers(pattern, hostname)));
    }
    may_use_common_name(certificate) && common_name(certificate).is_some_and(|name| covers(name, hostname))
}

fn is_address(bytes: &[u8], address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => bytes == address.octets(),
        IpAddr::V6(address) => bytes == address.octets(),
    }
}

fn may_use_common_name(certificate: &X509Certificate<'_>) -> bool {
    match certificate.extended_key_usage() {
        Ok(purposes) => purposes.is_none_or(|p| has_purpose(p.value, Role::Server)),
        Err(_) => false,
    }
}

/// The common name, if there is exactly one.
fn common_name<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    let mut names = certificate.subject().iter_common_name();
    let (name, more) = (names.next()?, names.next());
    if more.is_some() {
        return None;
    }
    // An address in a common name counts for nothing.
    name.as_str().ok().filter(|name| name.parse::<IpAddr>().is_err())
}

/// Whether a name, or a pattern whose first label is `*`, covers `hostname`; the star stands for one label.
fn covers(pattern: &str, hostname: &str) -> bool {
    if !pattern.is_ascii() || pattern.is_empty() {
        return false;
    }
    match pattern.strip_prefix("*.") {
        Some(rest) => {
            let tail = hostname.split_once('.').filter(|(label, _)| !label.is_empty());
            // `*.com` would be too good to be true.
            rest.contains('.') && tail.is_some_and(|(_, tail)| tail.eq_ignore_ascii_case(rest))
        }
        None => pattern.eq_ignore_ascii_case(hostname),
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_star_stands_for_one_first_label() {
        for (pattern, hostname) in [
            ("a.example.com", "A.Example.COM"),
            ("*.example.com", "a.example.com"),
            ("*.a.example.com", "b.a.example.com"),
        ] {
            assert!(covers(pattern, hostname), "{pattern} {hostname}");
        }
        for (pattern, hostname) in [
            ("*.example.com", "example.com"),
            ("*.example.com", ".example.com"),
            ("*.example.com", "b.a.example.com"),
            ("*.com", "example.com"),
            ("a*.example.com", "ab.example.com"),
            ("a.*.com", "a.example.com"),
            ("*", "localhost"),
            ("", ""),
            ("example.com", "example.com.evil.org"),
        ] {
            assert!(!covers(pattern, hostname), "{pattern} {hostname}");
        }
    }
}
