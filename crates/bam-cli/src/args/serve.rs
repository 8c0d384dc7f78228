//! `bam serve`.

use bam_attention::Skipping;
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Folder of a model with its tokenizer
    pub model: PathBuf,
    /// Address to listen on; only this machine can reach the default
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// What clients call the model; the folder's name if not given
    #[arg(long)]
    pub name: Option<String>,
    /// File with a key that clients must send as `Authorization: Bearer KEY`; the environment variable
    /// BAM_API_KEY does as well
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Let pages of this origin use the server, for example http://localhost:3000
    #[arg(long, value_name = "ORIGIN")]
    pub cors: Vec<String>,
    /// Memory for keys and values; it decides how long a context can be
    #[arg(long, default_value = "2G", value_parser = bytes)]
    pub cache_memory: usize,
    /// Rows that are worked on at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub parallel: u32,
    /// Rows that may wait; more are refused with 429
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub queue: u32,
    /// Largest request body
    #[arg(long, default_value = "16M", value_parser = bytes)]
    pub max_body: usize,
    /// Seconds that requests have to finish when the server is asked to stop
    #[arg(long, default_value_t = 30)]
    pub grace: u64,
    /// Which keys may be left unread: off, exact (no bit changes), or the share of a row's posterior
    /// that may be dropped, for example 1e-6
    #[arg(long, default_value = "exact")]
    pub skip: Skipping,
    /// Keep only the keys and values within each head's certified horizon: what is beyond can hold at
    /// most this share of any row's posterior
    #[arg(long, value_name = "EPSILON")]
    pub certified_cache: Option<f64>,
    /// The longest context of a certified cache
    #[arg(long, default_value = "1M", value_parser = bytes, requires = "certified_cache")]
    pub longest: usize,
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

#[cfg(test)]
mod tests {
    use super::bytes;

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
