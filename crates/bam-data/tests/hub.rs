//! The hub, played by a server on this machine.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bam_data::{Corpus, DataError, Document, HubAccess, HubAddress, HubProgress, Source};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The server's answer to a request for the contents of a file.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Answers,
    Redirects,
    Stalls,
    /// Ends early, without having said how much was to come.
    Cuts,
}

struct Server {
    endpoint: String,
    requests: Arc<AtomicUsize>,
}

fn serve(files: &[(&str, &str)], manner: Manner) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let files: Vec<(String, String)> = files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            let files = files.clone();
            std::thread::spawn(move || answer(stream.unwrap(), &files, manner));
        }
    });
    Server { endpoint, requests }
}

fn answer(mut stream: TcpStream, files: &[(String, String)], manner: Manner) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut request = String::new();
    reader.read_line(&mut request).unwrap();
    let mut range = (0, usize::MAX);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        if header.trim().is_empty() {
            break;
        }
        let header = header.trim().to_lowercase();
        if let Some((first, last)) = header
            .strip_prefix("range: bytes=")
            .and_then(|bytes| bytes.split_once('-'))
        {
            range = (first.parse().unwrap(), last.parse().unwrap_or(usize::MAX));
        }
    }
    let path = request.split(' ').nth(1).unwrap();
    if path == "/api/datasets/owner/name/revision/main" {
        if manner == Manner::Stalls {
            return hang(reader);
        }
        let siblings: Vec<_> = files
            .iter()
            .map(|(name, _)| serde_json::json!({ "rfilename": name }))
            .collect();
        let body = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
        return send(&mut stream, "200 OK", "", body.as_bytes());
    }
    let relocated = path.strip_prefix("/elsewhere");
    let inside = relocated.unwrap_or(path);
    let found = files.iter().find(|(name, _)| {
        [COMMIT, "main"]
            .iter()
            .any(|revision| inside == format!("/datasets/owner/name/resolve/{revision}/{name}"))
    });
    let Some((name, text)) = found else {
        return send(&mut stream, "404 Not Found", "", b"");
    };
    if manner == Manner::Redirects && relocated.is_none() {
        let location = format!("Location: /elsewhere{path}\r\n");
        return send(&mut stream, "307 Temporary Redirect", &location, b"");
    }
    if manner == Manner::Stalls {
        return hang(reader);
    }
    let (first, last) = (range.0, range.1.min(text.len() - 1));
    let body = &text.as_bytes()[first..=last];
    let headers = format!(
        "X-Repo-Commit: {COMMIT}\r\nETag: \"{}\"\r\nContent-Range: bytes {first}-{last}/{}\r\n",
        name.replace('/', "_"),
        text.len(),
    );
    if manner == Manner::Cuts && body.len() > 1 {
        let head = format!("HTTP/1.1 206 Partial Content\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        return stream.write_all(&body[..body.len() / 2]).unwrap();
    }
    send(&mut stream, "206 Partial Content", &headers, body);
}

fn send(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
}

/// Holds the connection open, silent, until the client closes it.
fn hang(mut reader: BufReader<TcpStream>) {
    let _ = reader.read(&mut [0]);
}

fn corpus(address: &str, server: &Server, cache: &Path) -> Corpus {
    let access = HubAccess {
        endpoint: server.endpoint.clone(),
        patience: Duration::from_millis(300),
        ..HubAccess::public(cache.to_path_buf())
    };
    Corpus::new(address.parse().unwrap()).with_hub(access)
}

fn texts(corpus: &Corpus) -> Result<Vec<String>, DataError> {
    let documents: Vec<Document> = corpus.documents(|_| {})?.collect::<Result<_, _>>()?;
    Ok(documents
        .into_iter()
        .map(|document| document.text)
        .collect())
}

const FILES: [(&str, &str); 5] = [
    (
        "sample/b.jsonl",
        "{\"text\": \"two\"}\n{\"text\": \"three\"}\n",
    ),
    ("README.md", "about"),
    (".gitattributes", "about"),
    ("sample/a.txt", "one"),
    ("other/c.txt", "four"),
];

#[test]
fn a_folder_of_a_dataset_is_listed_fetched_and_kept() {
    for manner in [Manner::Answers, Manner::Redirects] {
        let server = serve(&FILES, manner);
        let cache = tempfile::tempdir().unwrap();
        let corpus = corpus("hf://datasets/owner/name/sample", &server, cache.path());
        let seen = Mutex::new(Vec::new());
        let documents: Vec<Document> = corpus
            .documents(|progress| seen.lock().unwrap().push(progress))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let got: Vec<&str> = documents
            .iter()
            .map(|document| document.text.as_str())
            .collect();
        assert_eq!(got, ["one", "two", "three"]);
        assert!(
            documents[2].origin.ends_with("sample/b.jsonl:2"),
            "{}",
            documents[2].origin
        );
        let last = HubProgress {
            file: "sample/b.jsonl".to_owned(),
            received: FILES[0].1.len() as u64,
            total: FILES[0].1.len() as u64,
        };
        assert_eq!(seen.into_inner().unwrap().last(), Some(&last));

        // Again: only the list is asked for.
        let before = server.requests.load(Ordering::SeqCst);
        assert_eq!(texts(&corpus).unwrap(), got);
        assert_eq!(server.requests.load(Ordering::SeqCst), before + 1);
    }
}

#[test]
fn a_kept_file_needs_no_network() {
    let server = serve(&FILES, Manner::Answers);
    let cache = tempfile::tempdir().unwrap();
    let address = "hf://datasets/owner/name/other/c.txt";
    assert_eq!(
        texts(&corpus(address, &server, cache.path())).unwrap(),
        ["four"]
    );
    let gone = Server {
        endpoint: "http://127.0.0.1:9".to_owned(),
        requests: server.requests,
    };
    assert_eq!(
        texts(&corpus(address, &gone, cache.path())).unwrap(),
        ["four"]
    );
    // Null control: with another cache there is nothing to read.
    let empty = tempfile::tempdir().unwrap();
    assert!(texts(&corpus(address, &gone, empty.path())).is_err());
}

#[test]
fn without_a_network_the_error_says_what_to_do() {
    let gone = Server {
        endpoint: "http://127.0.0.1:9".to_owned(),
        requests: Arc::default(),
    };
    for address in [
        "hf://datasets/owner/name/sample",
        "hf://datasets/owner/name/a.parquet",
    ] {
        let cache = tempfile::tempdir().unwrap();
        let error = texts(&corpus(address, &gone, cache.path())).unwrap_err();
        assert!(matches!(error, DataError::Hub { .. }), "{error}");
        let message = error.to_string();
        assert!(
            message.contains("owner/name") && message.contains("local folder"),
            "{message}"
        );
    }
    let error = texts(&Corpus::new("hf://datasets/owner/name".parse().unwrap())).unwrap_err();
    assert!(
        matches!(error, DataError::HubAccessMissing { .. }),
        "{error}"
    );
}

#[test]
fn a_silent_network_is_given_up() {
    let server = serve(&FILES, Manner::Stalls);
    let cache = tempfile::tempdir().unwrap();
    for address in [
        "hf://datasets/owner/name/sample",
        "hf://datasets/owner/name/other/c.txt",
    ] {
        let begin = Instant::now();
        let error = texts(&corpus(address, &server, cache.path())).unwrap_err();
        assert!(matches!(error, DataError::HubStalled { .. }), "{error}");
        assert!(error.to_string().contains("owner/name"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn half_a_file_does_not_stay_in_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let address = "hf://datasets/owner/name/sample/b.jsonl";
    let error = texts(&corpus(address, &serve(&FILES, Manner::Cuts), cache.path())).unwrap_err();
    assert!(matches!(error, DataError::Hub { .. }), "{error}");
    assert!(
        error.to_string().contains("expected 34 bytes, got 17"),
        "{error}"
    );
    let whole = corpus(address, &serve(&FILES, Manner::Answers), cache.path());
    assert_eq!(texts(&whole).unwrap(), ["two", "three"]);
}

#[test]
fn what_a_dataset_lacks_is_an_error() {
    let server = serve(&FILES, Manner::Answers);
    let cache = tempfile::tempdir().unwrap();
    let error = |address: &str| texts(&corpus(address, &server, cache.path())).unwrap_err();
    let missing = error("hf://datasets/owner/name/nothing");
    assert!(matches!(missing, DataError::HubNoFiles { .. }), "{missing}");
    let missing = error("hf://datasets/owner/name/nothing.txt");
    assert!(missing.to_string().contains("404"), "{missing}");
    let missing = error("hf://datasets/owner/other");
    assert!(missing.to_string().contains("404"), "{missing}");
}

#[test]
fn a_list_cannot_lead_out_of_the_cache() {
    for name in [
        "../../outside.txt",
        "/etc/outside.txt",
        "a/../../outside.txt",
        "a b.txt",
    ] {
        let server = serve(&[(name, "text")], Manner::Answers);
        let cache = tempfile::tempdir().unwrap();
        let error = texts(&corpus("hf://datasets/owner/name", &server, cache.path())).unwrap_err();
        assert!(
            matches!(error, DataError::Hub { .. } | DataError::HubNoFiles { .. }),
            "{error}"
        );
    }
}

#[test]
fn addresses() {
    let parse = |text: &str| {
        let address: HubAddress = text.parse().unwrap();
        [address.dataset(), address.path(), address.revision()].map(str::to_owned)
    };
    for (text, expected) in [
        ("hf://datasets/o/n", ["o/n", "", "main"]),
        ("hf://datasets/o/n/", ["o/n", "", "main"]),
        (
            "hf://datasets/o/n/a/b.parquet",
            ["o/n", "a/b.parquet", "main"],
        ),
        ("hf://datasets/o/n/a@v1.0", ["o/n", "a", "v1.0"]),
        ("hf://datasets/o/n/a@refs/pr/3", ["o/n", "a", "refs/pr/3"]),
        ("hf://datasets/o/n@v1/a/b", ["o/n", "a/b", "v1"]),
        (
            "hf://datasets/o/n@refs/convert/parquet/en/train",
            ["o/n", "en/train", "refs/convert/parquet"],
        ),
        (
            "hf://datasets/o/n@refs/convert/parquet",
            ["o/n", "", "refs/convert/parquet"],
        ),
    ] {
        assert_eq!(parse(text), expected, "{text}");
        let Source::Hub(source) = text.parse().unwrap() else {
            panic!("{text} is on the hub");
        };
        assert_eq!(source.to_string().parse::<HubAddress>().unwrap(), source);
    }
    for text in [
        "hf://datasets/o",
        "hf://datasets/o/",
        "hf://datasets//n",
        "hf://datasets/../n/a",
        "hf://datasets/o/n/../a",
        "hf://datasets/o/n/a//b",
        "hf://datasets/o/n/a?b",
        "hf://datasets/o/n/a@",
        "hf://datasets/o/n@../../x",
        "hf://models/o/n",
        "hf:o/n",
    ] {
        let error = text.parse::<Source>().unwrap_err();
        assert!(
            matches!(error, DataError::HubAddress { .. }),
            "{text}: {error}"
        );
    }
    assert_eq!(
        "here/a.txt".parse::<Source>().unwrap(),
        Source::Local("here/a.txt".into())
    );
}

#[test]
fn tokens_are_not_shown() {
    let access = HubAccess {
        token: Some("hf_secret".to_owned()),
        ..HubAccess::public("cache".into())
    };
    assert!(!format!("{access:?}").contains("hf_secret"));
}
