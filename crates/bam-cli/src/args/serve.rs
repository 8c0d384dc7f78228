//! `bam serve`.

use super::number::share;
use super::{DeviceArgs, Length};
use bam_attention::Skipping;
use clap::Args;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Folder of a model with its tokenizer
    pub model: PathBuf,
    /// Address to listen on, or a port of this machine; only this machine can reach the default
    #[arg(long, default_value = "127.0.0.1:8080", value_parser = address)]
    pub listen: SocketAddr,
    /// The model's name for clients; the folder's name if not given
    #[arg(long, value_parser = name)]
    pub name: Option<String>,
    /// File with a key that clients must send as `Authorization: Bearer KEY`; the environment variable
    /// BAM_API_KEY does as well
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Let pages of this origin use the server, for example http://localhost:3000; `*` for any
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    pub cors: Vec<String>,
    /// Memory for keys and values; it decides how long a context can be
    #[arg(long, default_value = "2G", value_parser = bytes)]
    pub cache_memory: usize,
    /// Sequences that are worked on at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub parallel: u32,
    /// Sequences that may wait; more are refused with 429
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub queue: u32,
    /// Largest request body
    #[arg(long, default_value = "16M", value_parser = bytes)]
    pub max_body: usize,
    /// Seconds that requests have to finish when the server is asked to stop
    #[arg(long, default_value_t = 30)]
    pub grace: u64,
    /// Keys that may be left unread: off, exact (no bit changes), or the share of a row's posterior
    /// that may be dropped, for example 1e-6
    #[arg(long, default_value = "exact")]
    pub skip: Skipping,
    /// Keep only the keys and values within each head's certified horizon: what is beyond can hold at
    /// most this share of any row's posterior
    #[arg(long, value_name = "EPSILON", value_parser = share)]
    pub certified_cache: Option<f64>,
    /// The longest context of a certified cache, in tokens (64k, 1M) or training lengths (16x)
    #[arg(long, default_value = "1M", requires = "certified_cache")]
    pub longest: Length,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// A size in bytes, with K, M or G for powers of 1024.
fn bytes(text: &str) -> Result<usize, String> {
    let wrong = || format!("expected bytes such as 500000, 64K, 16M or 2G, got {text}");
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: usize = digits.parse().map_err(|_| wrong())?;
    let size = number.checked_mul(1 << shift).ok_or_else(wrong)?;
    if size == 0 { Err(wrong()) } else { Ok(size) }
}

/// An address with its port, or a port of this machine.
fn address(text: &str) -> Result<SocketAddr, String> {
    let local = |port: &str| {
        let port = port.parse().ok()?;
        Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
    };
    let named = || local(text.strip_prefix("localhost:").unwrap_or(text));
    text.parse().ok().or_else(named).ok_or_else(|| {
        format!(
            "expected a numeric address with its port, such as 127.0.0.1:8080 or [::1]:8080, \
             localhost:8080 or a port, got {text}"
        )
    })
}

/// A name that a model can have.
fn name(text: &str) -> Result<String, String> {
    match text.trim().is_empty() || text.chars().any(char::is_control) {
        true => Err(format!("expected a name, got {text:?}")),
        false => Ok(text.to_owned()),
    }
}

/// An origin as browsers send it, or `*`.
fn origin(text: &str) -> Result<String, String> {
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_origin = || {
        let (scheme, rest) = text.split_once("://")?;
        let scheme_fits = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.chars().all(|c| lower(c) || "+-.".contains(c));
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let of_v6 = |host: &str| host.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
        let is_v6 = of_v6(host).is_some_and(|ip: IpAddr| ip.is_ipv6());
        let host_fits = !host.is_empty() && host.chars().all(|c| lower(c) || "-._".contains(c));
        let port_fits = match port {
            None => true,
            // Browsers leave out the port that a scheme has anyway.
            Some(port) => {
                ![("http", "80"), ("https", "443")].contains(&(scheme, port))
                    && !port.starts_with(['0', '+'])
                    && port.parse::<u16>().is_ok()
            }
        };
        (scheme_fits && (host_fits || is_v6) && port_fits).then_some(())
    };
    match text == "*" || is_origin().is_some() {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "expected * or an origin as browsers send it, scheme://host or scheme://host:port in \
             lower case with nothing after it, got {text}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::{address, bytes, name, origin};

    #[test]
    fn addresses_may_be_a_port() {
        for (text, expected) in [
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:8080", "[::1]:8080"),
            ("localhost:8080", "127.0.0.1:8080"),
            ("8080", "127.0.0.1:8080"),
            ("0", "127.0.0.1:0"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), expected, "{text}");
        }
        for wrong in [
            "",
            "127.0.0.1",
            "localhost",
            "example.org:80",
            "65536",
            ":80",
            "::1",
        ] {
            assert!(
                address(wrong).unwrap_err().contains("a port, got"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn origins_are_those_that_browsers_send() {
        for right in [
            "*",
            "http://localhost:3000",
            "https://there.example",
            "http://127.0.0.1",
            "http://[::1]:3000",
            "http://[::1]",
            "chrome-extension://abcdefgh",
        ] {
            assert_eq!(origin(right).as_deref(), Ok(right));
        }
        for wrong in [
            "",
            "not an origin",
            "localhost:3000",
            "http://localhost:3000/",
            "http://",
            "http://a:b",
            "http://a:0",
            "http://a:65536",
            "http://a:80",
            "https://a:443",
            "HTTP://a",
            "http://A",
            "http://a/b",
            "http://u@a",
            "http://[::1",
            "http://[zz]",
            "http://*.a",
            "null",
            "http://a:",
            "http://é",
        ] {
            assert!(
                origin(wrong).unwrap_err().contains("scheme://host"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn names_are_something() {
        assert_eq!(name("my model").as_deref(), Ok("my model"));
        for wrong in ["", " ", "a\nb"] {
            assert!(name(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(bytes("500"), Ok(500));
        assert_eq!(bytes("64k"), Ok(65_536));
        assert_eq!(bytes("2G"), Ok(2 << 30));
        for wrong in ["", "0", "G", "-1", "1.5G", "99999999999G", "é"] {
            assert!(
                bytes(wrong).unwrap_err().contains("expected bytes"),
                "{wrong}"
            );
        }
    }
}
