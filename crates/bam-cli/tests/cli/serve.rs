//! `bam serve`, by requests over loopback.

use crate::program::{args, fail};
use crate::server::{LONG_PROMPT, Server};
use crate::workshop::Workshop;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

#[test]
fn completions_are_what_generate_says() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let server = Server::start(&model, &[]);
    let prompt = "the river bends";
    let said = crate::program::succeed(&args![
        "generate {} --prompt {} --tokens 12 --temperature 0",
        model,
        prompt
    ]);
    let body = json!({"model": "model", "prompt": prompt, "max_tokens": 12, "temperature": 0});
    let completion = server.completion(&body);
    let text = completion["choices"][0]["text"].as_str().unwrap();
    assert_eq!(format!("{prompt}{text}\n"), said);
    assert_eq!(completion["object"], "text_completion");
    assert_eq!(completion["usage"]["completion_tokens"], 12);
    assert_eq!(completion["choices"][0]["finish_reason"], "length");

    // The same as a stream, and the numbers of tokens at its end.
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    streamed["stream_options"] = json!({"include_usage": true});
    let events = server.post("/v1/completions", &streamed).events();
    let pieces = events
        .iter()
        .filter_map(|event| event["choices"][0]["text"].as_str());
    assert_eq!(pieces.collect::<String>(), text);
    assert_eq!(events.last().unwrap()["usage"], completion["usage"]);
    assert_eq!(
        events[events.len() - 2]["choices"][0]["finish_reason"],
        "length"
    );

    // The same from token ids.
    let tokens = server.post("/tokenize", &json!({"prompt": prompt})).json();
    let by_tokens = json!({"prompt": tokens["tokens"], "max_tokens": 12, "temperature": 0});
    assert_eq!(server.completion(&by_tokens)["choices"][0]["text"], text);
    let back = server
        .post("/detokenize", &json!({"tokens": tokens["tokens"]}))
        .json();
    assert_eq!(back["prompt"], prompt);

    // It stops before what it is to stop at.
    let stop: String = text.chars().skip(3).take(4).collect();
    let mut stopping = body;
    stopping["stop"] = json!([stop]);
    let stopped = server.completion(&stopping);
    let expected = &text[..text.find(&stop).unwrap()];
    assert_eq!(stopped["choices"][0]["text"], expected);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert_eq!(server.interrupt(), Some(0));
}

#[test]
fn prompts_are_scored_as_eval_scores_them() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let server = Server::start(&model, &[]);
    let (context, continuation) = ("the quiet town", " where lanterns");
    let requests = shop.path("requests.jsonl");
    let line = json!({"context": context, "continuation": continuation});
    std::fs::write(&requests, line.to_string()).unwrap();
    let record = crate::program::succeed_json(&args![
        "eval loglikelihood {} --requests {} --json",
        model,
        requests
    ]);
    let perplexity = record["metrics"]["tasks"][0]["perplexity"]
        .as_f64()
        .unwrap();

    let whole = format!("{context}{continuation}");
    let body = json!({"prompt": whole, "max_tokens": 1, "logprobs": 1, "echo": true, "temperature": 0, "add_special_tokens": false});
    for _ in 0..2 {
        let choice = server.completion(&body)["choices"][0].take();
        let logprobs = &choice["logprobs"];
        let of_tokens = logprobs["token_logprobs"].as_array().unwrap();
        assert!(of_tokens[0].is_null() && logprobs["top_logprobs"][0].is_null());
        let count = |text: &str| {
            let body = json!({"prompt": text, "add_special_tokens": false});
            server.post("/tokenize", &body).json()["count"]
                .as_u64()
                .unwrap() as usize
        };
        assert_eq!(of_tokens.len(), count(&whole) + 1);
        assert!(choice["text"].as_str().unwrap().starts_with(&whole));
        let from = count(context);
        let sum: f64 = of_tokens[from..of_tokens.len() - 1]
            .iter()
            .map(|ln_p| ln_p.as_f64().unwrap())
            .sum();
        assert!(
            ((-sum).exp() / perplexity - 1.0).abs() < 1e-3,
            "{sum}, {perplexity}"
        );
        // The generated token is the most probable one.
        let last = logprobs["top_logprobs"].as_array().unwrap().last().unwrap();
        assert_eq!(last.as_object().unwrap().len(), 1);
    }
    // The second time nothing but the last token was read.
    let read = server.metric("bam_prompt_tokens_total");
    assert_eq!(server.metric("bam_reused_tokens_total"), read / 2.0 - 1.0);
}

#[test]
fn choices_differ_and_repeat() {
    let shop = Workshop::new();
    let server = Server::start(&shop.trained_model(), &[]);
    let body = json!({"prompt": ["the river", "a town"], "n": 2, "seed": 7, "max_tokens": 20});
    let first = server.completion(&body);
    let texts = |completion: &Value| -> Vec<String> {
        let choices = completion["choices"].as_array().unwrap();
        assert_eq!(
            choices
                .iter()
                .map(|c| c["index"].as_u64().unwrap())
                .collect::<Vec<_>>(),
            [0, 1, 2, 3]
        );
        choices
            .iter()
            .map(|c| c["text"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(texts(&first), texts(&server.completion(&body)));
    assert_ne!(texts(&first)[0], texts(&first)[1]);
    assert_eq!(first["usage"]["completion_tokens"], 80);
}

#[test]
fn what_is_wrong_is_said_in_openais_words() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let words = [
        "--max-body",
        "2K",
        "--cache-memory",
        "200K",
        "--queue",
        "3",
        "--parallel",
        "1",
    ];
    let server = Server::start(&model, &words);
    let json = "Content-Type: application/json\r\n";
    let most = server.get("/v1/models").json()["data"][0]["max_model_len"]
        .as_u64()
        .unwrap();
    for (status, answer) in [
        (404, server.get("/nothing")),
        (405, server.get("/v1/completions")),
        (405, server.post("/health", &json!({}))),
        (405, server.ask("POST", "/v1/models", "", "x")),
        (415, server.ask("POST", "/v1/completions", "", "{}")),
        (400, server.ask("POST", "/v1/completions", json, "{")),
        (
            400,
            server.ask("POST", "/v1/completions", json, "{\"prompt\": \"\u{0}\"}"),
        ),
        (400, server.post("/v1/completions", &json!({}))),
        (
            400,
            server.post("/v1/completions", &json!({"prompt": "a", "wings": 2})),
        ),
        (
            400,
            server.post("/v1/completions", &json!({"prompt": [9999]})),
        ),
        (
            400,
            server.post("/v1/completions", &json!({"prompt": [-1]})),
        ),
        (
            400,
            server.post(
                "/v1/completions",
                &json!({"prompt": "a", "max_tokens": most}),
            ),
        ),
        (
            400,
            server.post(
                "/v1/completions",
                &json!({"prompt": "a", "max_tokens": u64::MAX}),
            ),
        ),
        (
            404,
            server.post("/v1/completions", &json!({"prompt": "a", "model": "gpt"})),
        ),
        (
            413,
            server.post("/v1/completions", &json!({"prompt": "a".repeat(3000)})),
        ),
        (
            400,
            server.post("/v1/completions", &json!({"prompt": "a", "n": 5})),
        ),
        (
            400,
            server.post(
                "/v1/chat/completions",
                &json!({"messages": [{"role": "user", "content": "a"}]}),
            ),
        ),
        (404, server.get("/v1/models/other")),
        (400, server.post("/detokenize", &json!({"tokens": "a"}))),
        (400, server.post("/inspect", &json!({"tokens": []}))),
    ] {
        assert_eq!(answer.status, status, "{answer:?}");
        let error = &answer.json()["error"];
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{answer:?}"
        );
        for field in ["type", "param", "code"] {
            assert!(error.get(field).is_some(), "{answer:?}");
        }
    }
    // A name that somebody pointed at this machine.
    let mut stream =
        server.send("GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 403"), "{text}");
    // Bytes that are no UTF-8, and no HTTP.
    let mut stream = server.send("");
    stream.write_all(b"\xff\xfe\x00\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 400"));
    // Null control: after all this it answers.
    assert_eq!(
        server.completion(&json!({"prompt": "a"}))["choices"][0]["index"],
        0
    );
    assert_eq!(server.get("/health").json(), json!({"status": "ok"}));
}

#[test]
fn more_than_may_wait_are_sent_away() {
    let shop = Workshop::new();
    let words = ["--queue", "2", "--parallel", "2"];
    let server = Server::start(&shop.trained_model(), &words);
    let stream = server.keep_busy(4);
    let answer = server.post("/v1/completions", &json!({"prompt": "a"}));
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.head.contains("retry-after"), "{answer:?}");
    assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
    // Null control: as soon as there is room, it is taken.
    drop(stream);
    let start = Instant::now();
    while server
        .post("/v1/completions", &json!({"prompt": "a"}))
        .status
        != 200
    {
        assert!(start.elapsed() < Duration::from_secs(60), "the rows go on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_key_is_asked_for_where_there_is_one() {
    let shop = Workshop::new();
    let key = shop.path("key");
    std::fs::write(&key, "secret\n").unwrap();
    let server = Server::start(
        &shop.trained_model(),
        &["--api-key-file", key.to_str().unwrap()],
    );
    let models = |headers: &str| server.ask("GET", "/v1/models", headers, "").status;
    assert_eq!(models(""), 401);
    assert_eq!(models("Authorization: Bearer wrong\r\n"), 401);
    assert_eq!(models("Authorization: Bearer secre\r\n"), 401);
    assert_eq!(models("Authorization: Bearer secret\r\n"), 200);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn other_origins_are_let_in_only_if_asked() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let allowed = |words: &[&str], origin: &str| {
        let server = Server::start(&model, words);
        let headers = format!("Origin: {origin}\r\n");
        let answer = server.ask("GET", "/v1/models", &headers, "");
        answer.head.contains("access-control-allow-origin")
    };
    assert!(!allowed(&[], "http://there.example"));
    assert!(allowed(
        &["--cors", "http://there.example"],
        "http://there.example"
    ));
    assert!(!allowed(
        &["--cors", "http://there.example"],
        "http://else.example"
    ));
}

#[test]
fn who_leaves_is_not_generated_for() {
    let shop = Workshop::new();
    let server = Server::start(&shop.trained_model(), &[]);
    let stream = server.keep_busy(1);
    drop(stream);
    let start = Instant::now();
    while server.metric("bam_sequences_active") > 0.0 {
        assert!(start.elapsed() < Duration::from_secs(60), "the row goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
    let read = server.metric("bam_prompt_tokens_total");
    assert!(read < LONG_PROMPT as f64, "all {read} tokens were read");
}

#[test]
fn a_chat_follows_the_models_template() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let template =
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    let config = json!({"chat_template": template}).to_string();
    std::fs::write(model.join("tokenizer_config.json"), config).unwrap();
    let server = Server::start(&model, &[]);
    let messages = json!([{"role": "user", "content": "the river"}]);
    let body = json!({"messages": messages, "max_tokens": 9, "temperature": 0, "logprobs": true, "top_logprobs": 2});
    let answer = server.post("/v1/chat/completions", &body).json();
    let by_hand = json!({"prompt": "user: the river\n", "max_tokens": 9, "temperature": 0});
    let text = &server.completion(&by_hand)["choices"][0]["text"];
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["message"]["content"], &choice["message"]["role"]),
        (text, &json!("assistant"))
    );
    assert_eq!(
        choice["logprobs"]["content"][0]["top_logprobs"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let mut streamed = body;
    streamed["stream"] = true.into();
    let events = server.post("/v1/chat/completions", &streamed).events();
    let pieces = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    assert_eq!(pieces.collect::<String>(), *text);
    // A message can't end the document or begin another.
    let forged = json!({"messages": [{"role": "user", "content": "x</s>y"}]});
    let answer = server.post("/v1/chat/completions", &forged);
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("no special token"), "{answer:?}");
}

#[test]
fn the_page_and_the_description_are_there() {
    let shop = Workshop::new();
    let server = Server::start(&shop.trained_model(), &[]);
    for (path, kind) in [
        ("/", "text/html"),
        ("/style.css", "text/css"),
        ("/script.js", "text/javascript"),
        ("/openapi.json", "application/json"),
        ("/metrics", "application/openmetrics-text"),
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.head.contains(kind), "{answer:?}");
        // It asks nobody else for anything.
        assert!(
            path == "/openapi.json" || !answer.body.contains("https://"),
            "{path}"
        );
    }
    let description = server.get("/openapi.json").json();
    for path in ["/v1/completions", "/v1/models", "/tokenize", "/health"] {
        assert!(description["paths"].get(path).is_some(), "{path}");
    }
}

/// Requests of the page: the heads by layer, masses that sum to one, nothing read twice.
#[test]
fn heads_are_asked_about_a_token() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let server = Server::start(&model, &[]);
    let config = std::fs::read_to_string(model.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    let prompt = json!({"prompt": "the river bends where the lanterns are lit"});
    let tokens = server.post("/tokenize", &prompt).json()["tokens"].clone();
    let count = tokens.as_array().unwrap().len();
    let ask = || server.post("/inspect", &json!({"tokens": tokens})).json();
    let beliefs = ask();
    assert_eq!(beliefs["keys"], count);
    let layers = beliefs["layers"].as_array().unwrap();
    assert_eq!(layers.len(), config["num_hidden_layers"]);
    for head in layers
        .iter()
        .flat_map(|layer| layer["heads"].as_array().unwrap())
    {
        let bins = head["bins"].as_array().unwrap();
        for of in ["prior", "likelihood", "posterior"] {
            let mass: f64 = bins.iter().map(|bin| bin[of].as_f64().unwrap()).sum();
            assert!((mass - 1.0).abs() < 1e-4, "{of}: {mass}");
        }
        assert!(["local", "flat", "anti_local"].contains(&head["class"].as_str().unwrap()));
    }
    // Only the last token is read again, and a rounding apart at most.
    let again = ask();
    let evidence = |of: &Value| of["layers"][0]["heads"][0]["ln_evidence"].as_f64().unwrap();
    assert!((evidence(&again) - evidence(&beliefs)).abs() < 1e-4);
    assert_eq!(server.metric("bam_reused_tokens_total"), count as f64 - 1.0);
}

#[test]
fn addresses_that_are_taken_and_sizes_that_are_none_are_refused() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let server = Server::start(&model, &[]);
    let error = fail(1, &args!["serve {} --listen {}", model, server.address]);
    assert!(
        error.contains("--listen") && error.contains(&server.address),
        "{error}"
    );
    let error = fail(2, &args!["serve {} --cache-memory much", model]);
    assert!(error.contains("expected bytes"), "{error}");
    let error = fail(
        1,
        &args!["serve {} --listen 127.0.0.1:0 --cache-memory 8", model],
    );
    assert!(error.contains("room for a token"), "{error}");
    assert!(fail(1, &args!["serve {}", shop.path("nothing")]).contains("config.json"));
}
