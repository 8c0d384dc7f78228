//! A hub model's word about itself, by every way through the program: ends, ids without tokens, chat
//! templates; and conversations that go on.

use crate::program::{args, run, succeed};
use crate::server::Server;
use crate::tensors::{self, Tensor, Tensors};
use safetensors::Dtype;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz .,:;<>{}\"'";
const DIM: usize = 8;

/// A LLaMA of one layer in the hub's layout, whose next token is always the same.
struct Hub {
    folder: TempDir,
    /// Tokens of its tokenizer.
    tokens: usize,
}

impl Hub {
    /// With these special tokens, so many rows without a token, and a favourite; `config.json` says more.
    fn new(special: &[&str], more: usize, favourite: usize, says: Value) -> Self {
        let letters = LETTERS.chars().map(|c| match c {
            ' ' => "Ġ".to_owned(),
            c => c.to_string(),
        });
        let names: Vec<String> = special
            .iter()
            .map(|of| (*of).to_owned())
            .chain(letters)
            .collect();
        let hub = Self {
            folder: TempDir::new().unwrap(),
            tokens: names.len(),
        };
        fs::create_dir(hub.path("hub")).unwrap();
        let vocabulary = names
            .iter()
            .zip(0..)
            .map(|(name, id): (_, u32)| (name.clone(), id.into()));
        let added = special.iter().zip(0..).map(|(name, id): (_, u32)| {
            json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        });
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": added.collect::<Vec<_>>(), "normalizer": null, "pre_tokenizer": bytes,
            "post_processor": null, "decoder": bytes,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "vocab": vocabulary.collect::<serde_json::Map<_, _>>(), "merges": []},
        });
        hub.write("hub/tokenizer.json", &tokenizer);
        let rows = hub.tokens + more;
        let mut config = json!({
            "model_type": "llama", "vocab_size": rows, "hidden_size": DIM, "intermediate_size": DIM,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
            "hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": false,
        });
        config
            .as_object_mut()
            .unwrap()
            .extend(says.as_object().unwrap().clone());
        hub.write("hub/config.json", &config);
        let tensor = |shape: &[usize], value: &dyn Fn(usize) -> f32| Tensor {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes: (0..shape.iter().product())
                .flat_map(|at| value(at).to_le_bytes())
                .collect(),
        };
        let (one, none) = (|_| 1.0, |_| 0.0);
        let mut all = Tensors::new();
        all.insert(
            "model.embed_tokens.weight".into(),
            tensor(&[rows, DIM], &one),
        );
        all.insert("model.norm.weight".into(), tensor(&[DIM], &one));
        let head = |at: usize| if at / DIM == favourite { 1.0 } else { 0.0 };
        all.insert("lm_head.weight".into(), tensor(&[rows, DIM], &head));
        for name in ["input_layernorm", "post_attention_layernorm"] {
            all.insert(
                format!("model.layers.0.{name}.weight"),
                tensor(&[DIM], &one),
            );
        }
        for name in ["q", "k", "v", "o"] {
            let name = format!("model.layers.0.self_attn.{name}_proj.weight");
            all.insert(name, tensor(&[DIM, DIM], &none));
        }
        for name in ["gate", "up", "down"] {
            let name = format!("model.layers.0.mlp.{name}_proj.weight");
            all.insert(name, tensor(&[DIM, DIM], &none));
        }
        tensors::write(&hub.path("hub/model.safetensors"), &all);
        hub
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, value: &Value) {
        self.write_text(name, &value.to_string());
    }

    fn write_text(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The model, imported.
    fn import(&self) -> PathBuf {
        let model = self.path("model");
        succeed(&args!["import hf {} --out {}", self.path("hub"), model]);
        model
    }
}

/// Why an answer of at most four tokens ended, and its tokens.
fn ends(server: &Server, more: Value) -> (String, Value) {
    let mut body =
        json!({"prompt": "hi", "max_tokens": 4, "temperature": 0, "return_token_ids": true});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let answer = server.completion(&body);
    let choice = &answer["choices"][0];
    let reason = choice["finish_reason"].as_str().unwrap().to_owned();
    (reason, choice["token_ids"].clone())
}

fn ends_at_once(model: &Path, token: usize) {
    let server = Server::start(model, &[]);
    assert_eq!(ends(&server, json!({})), ("stop".into(), json!([token])));
    let said = succeed(&args![
        "generate {} --prompt hi --tokens 4 --temperature 0",
        model
    ]);
    assert_eq!(said, "hi\n");
}

/// Whatever it is called, and wherever it is said.
#[test]
fn a_model_ends_where_its_files_say() {
    const CHATML: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    const LLAMA3: [&str; 3] = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"];
    const NAMED: [&str; 3] = ["[PAD]", "[BOS]", "[EOS]"];
    for (special, says, file) in [
        (CHATML, json!({"eos_token_id": 2}), None),
        (LLAMA3, json!({"eos_token_id": [1, 2]}), None),
        (
            NAMED,
            json!({}),
            Some(("generation_config.json", json!({"eos_token_id": [1, 2]}))),
        ),
        (
            NAMED,
            json!({}),
            Some(("tokenizer_config.json", json!({"eos_token": "[EOS]"}))),
        ),
        (
            NAMED,
            json!({}),
            Some((
                "special_tokens_map.json",
                json!({"eos_token": {"content": "[EOS]"}}),
            )),
        ),
    ] {
        let hub = Hub::new(&special, 0, 2, says);
        if let Some((name, value)) = file {
            hub.write(&format!("hub/{name}"), &value);
        }
        ends_at_once(&hub.import(), 2);
    }
    // Null control: nothing says that it ends, but a request can.
    let hub = Hub::new(&NAMED, 0, 2, json!({}));
    let server = Server::start(&hub.import(), &[]);
    assert_eq!(
        ends(&server, json!({})),
        ("length".into(), json!([2, 2, 2, 2]))
    );
    assert_eq!(
        ends(&server, json!({"stop_token_ids": [5, 2]})),
        ("stop".into(), json!([2]))
    );
    let wrong = server.post(
        "/v1/completions",
        &json!({"prompt": "hi", "stop_token_ids": [400]}),
    );
    assert_eq!(
        wrong.json()["error"]["param"],
        "stop_token_ids",
        "{wrong:?}"
    );
    // An end has no text, also where its token has some.
    let letter = NAMED.len();
    let hub = Hub::new(&NAMED, 0, letter, json!({"eos_token_id": letter}));
    let server = Server::start(&hub.import(), &[]);
    let answer = server.completion(&json!({"prompt": "hi", "max_tokens": 4, "temperature": 0}));
    assert_eq!(answer["choices"][0]["text"], "");
}

/// Both exports, and what is made of a model, say what it said.
#[test]
fn roles_and_templates_are_kept_by_every_command() {
    let special = ["<pad>", "<|bos|>", "<|end|>", "<|turn|>"];
    let says =
        json!({"eos_token_id": [2, 3], "pad_token_id": 0, "position_embedding_type": "alibi"});
    let hub = Hub::new(&special, 4, 3, says);
    hub.write(
        "hub/tokenizer_config.json",
        &json!({"bos_token": "<|bos|>", "add_bos_token": true, "eos_token": "<|end|>"}),
    );
    let (any, tools) = (
        "{{ messages[0].content }}",
        "{{ 'ab' if tools | length == 1 }}{{ pad_token }}",
    );
    hub.write_text("hub/chat_template.jinja", any);
    hub.write_text("hub/additional_chat_templates/tool_use.jinja", tools);
    let model = hub.import();
    let (edited, exported) = (hub.path("edited"), hub.path("exported"));
    succeed(&args![
        "prior edit {} --head 0 --scale x9 --out {}",
        model,
        edited
    ]);
    succeed(&args!["export hf {} --out {}", model, exported]);
    for model in [&model, &edited, &exported] {
        ends_at_once(model, 3);
        let server = Server::start(model, &[]);
        let info = server.get("/tokenizer_info").json();
        let said = [
            "bos_token",
            "eos_token",
            "pad_token",
            "add_bos_token",
            "chat_template",
        ];
        let said = said.map(|name| info[name].clone());
        assert_eq!(
            said,
            [
                "<|bos|>".into(),
                "<|end|>".into(),
                "<pad>".into(),
                json!(true),
                any.into()
            ]
        );
        let tokens = server.post("/tokenize", &json!({"prompt": "a"})).json();
        assert_eq!(tokens["tokens"], json!([1, 4]));
        let tooled = json!({"messages": [{"role": "user", "content": "hi"}], "tool_choice": "none",
            "tools": [{"type": "function", "function": {"name": "f"}}], "max_tokens": 1});
        let answer = server.post("/v1/chat/completions", &tooled).json();
        assert_eq!(answer["usage"]["prompt_tokens"], 3, "{answer}");
    }
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(exported.join(name)).unwrap()).unwrap()
    };
    for file in ["config.json", "generation_config.json"] {
        let ids =
            ["bos_token_id", "eos_token_id", "pad_token_id"].map(|name| read(file)[name].clone());
        assert_eq!(ids, [json!(1), json!([2, 3]), json!(0)], "{file}");
    }
    assert_eq!(read("tokenizer_config.json")["bos_token"], "<|bos|>");
    let file = hub.path("model.gguf");
    let hub = Hub::new(&special, 4, 3, json!({"eos_token_id": [2, 3]}));
    hub.write_text("hub/chat_template.jinja", any);
    hub.write_text("hub/additional_chat_templates/tool_use.jinja", tools);
    succeed(&args!["export gguf {} --out {}", hub.import(), file]);
    let bytes = fs::read(file).unwrap();
    let id = |name: &str, id: u32| {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let entry = [key.as_bytes(), &4u32.to_le_bytes(), &id.to_le_bytes()].concat();
        bytes.windows(entry.len()).any(|of| of == entry)
    };
    assert!(id("eos", 2) && id("eot", 3) && !id("eos", 3));
    for text in [any, tools, "tokenizer.chat_template.tool_use"] {
        assert!(
            bytes.windows(text.len()).any(|of| of == text.as_bytes()),
            "{text}"
        );
    }
}

/// A store of a tokenizer without an end says so when it is made, and one that has it in its files has it.
#[test]
fn prepare_says_that_there_is_no_end() {
    let hub = Hub::new(
        &["[PAD]", "[BOS]", "[EOS]"],
        0,
        2,
        json!({"eos_token_id": 2}),
    );
    hub.write_text("c.jsonl", "{\"text\":\"a\"}\n{\"text\":\"b\"}\n");
    let prepare = |tokenizer: &str, out: &str| {
        let output = run(&args![
            "prepare {} --tokenizer {} --out {}",
            hub.path("c.jsonl"),
            hub.path(tokenizer),
            hub.path(out)
        ]);
        assert!(output.status.success());
        let index = fs::read(hub.path(out).join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        (
            String::from_utf8(output.stderr).unwrap(),
            index["tokenizer"]["eos"].clone(),
        )
    };
    let (said, end) = prepare("hub/tokenizer.json", "with");
    assert!(!said.contains("no token ends a document"), "{said}");
    assert_eq!(end, 2);
    fs::copy(hub.path("hub/tokenizer.json"), hub.path("alone.json")).unwrap();
    let (said, end) = prepare("alone.json", "without");
    assert!(
        said.contains("alone.json: no token ends a document"),
        "{said}"
    );
    assert_eq!(end, Value::Null);
}

/// A model may have more rows than its tokenizer has tokens, and like them.
#[test]
fn ids_without_tokens_have_no_text() {
    let hub = Hub::new(&["<s>", "</s>"], 28, 50, json!({}));
    assert!(hub.tokens < 50);
    let model = hub.import();
    let said = succeed(&args![
        "generate {} --prompt hi --tokens 3 --temperature 0",
        model
    ]);
    assert_eq!(said, "hi\n");
    let server = Server::start(&model, &[]);
    for more in [
        json!({"prompt": "hi"}),
        json!({"prompt": [5, 6, 60]}),
        json!({"prompt": [60], "echo": true}),
    ] {
        let mut body =
            json!({"max_tokens": 3, "temperature": 0, "logprobs": 5, "return_token_ids": true});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let answer = server.completion(&body);
        let choice = &answer["choices"][0];
        assert_eq!(choice["text"], "", "{answer}");
        let ids = choice["token_ids"].as_array().unwrap();
        assert_eq!(ids[ids.len() - 3..], [50, 50, 50]);
        // Of all the ids without a name the likeliest is told: it is the one that was drawn.
        let scores = &choice["logprobs"];
        let last = ids.len() - 1;
        assert_eq!(scores["tokens"][last], "");
        assert_eq!(
            scores["top_logprobs"][last][""],
            scores["token_logprobs"][last]
        );
        body["stream"] = true.into();
        let events = server.post("/v1/completions", &body).events();
        assert!(events.iter().all(|event| event["choices"][0]["text"] == ""));
    }
    let text = server
        .post("/detokenize", &json!({"tokens": [2, 60, 3]}))
        .json();
    assert_eq!(text["prompt"], "ab");
    let chat = hub.path("model/chat_template.jinja");
    fs::write(chat, "{{ messages[0].content }}").unwrap();
    let server = Server::start(&model, &[]);
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "temperature": 0,
        "logprobs": true, "top_logprobs": 20});
    let answer = server.post("/v1/chat/completions", &body).json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["content"], "");
    assert_eq!(choice["logprobs"]["content"][0]["bytes"], json!([]));
}

/// An answer's message goes back as it came, with what programs put beside it.
#[test]
fn conversations_go_on() {
    let hub = Hub::new(&["<s>", "</s>"], 0, 2, json!({}));
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    hub.write(
        "hub/tokenizer_config.json",
        &json!({"chat_template": template.replace('\n', ";")}),
    );
    let server = Server::start(&hub.import(), &[]);
    let ask = |messages: &Value, more: Value| {
        let mut body = json!({"messages": messages, "max_tokens": 2, "temperature": 0});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        server.post("/v1/chat/completions", &body)
    };
    let user = json!({"role": "user", "content": "hi"});
    let first = ask(&json!([user]), json!({}));
    assert_eq!(first.status, 200, "{first:?}");
    let message = first.json()["choices"][0]["message"].clone();
    assert_eq!(message["content"], "aa");
    let mut kept = message.clone();
    for field in ["annotations", "audio", "function_call", "tool_calls"] {
        kept[field] = Value::Null;
    }
    let length = |answer: &crate::server::Answer| {
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let second = length(&ask(&json!([user, message, user]), json!({})));
    assert_eq!(length(&ask(&json!([user, kept, user]), json!({}))), second);
    let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    for messages in [
        json!([{"role": "user", "content": "hi", "type": "text"}]),
        json!([{"role": "developer", "content": [{"type": "text", "text": "hi"}]}]),
        json!([user, {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "five"}]),
        json!([user, {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "refusal": "no"}]),
        json!([user, {"role": "assistant", "content": "a", "annotations": [{"type": "url_citation"}]}]),
        json!([{"role": "function", "name": "f", "content": "x"}]),
    ] {
        length(&ask(&messages, json!({})));
    }
    // Fields whose value says nothing.
    let plain = length(&ask(&json!([user]), json!({})));
    for (field, values) in [
        ("tools", json!([null, []])),
        ("tool_choice", json!([null, "none", "auto"])),
        ("parallel_tool_calls", json!([null, true, false])),
        ("functions", json!([null, []])),
        ("function_call", json!([null, "none", "auto"])),
        ("response_format", json!([null, {"type": "text"}])),
        ("modalities", json!([null, ["text"]])),
        ("audio", json!([null])),
        ("prediction", json!([null])),
        ("web_search_options", json!([null])),
        ("reasoning_effort", json!([null, "none", "medium"])),
        ("verbosity", json!([null, "medium"])),
        ("service_tier", json!([null, "auto", "default"])),
        ("store", json!([null, false])),
        ("metadata", json!([null, {}, {"a": "b"}])),
        ("prompt_cache_key", json!([null, "", "k"])),
        ("safety_identifier", json!([null, "me"])),
        ("user", json!([null, "", "me"])),
        ("n", json!([null, 1])),
        ("stop", json!([null, "", [], ["", " "]])),
        ("logit_bias", json!([null, {}, {"5": 0}])),
        ("logprobs", json!([null, false])),
        ("top_logprobs", json!([null, 0])),
        ("presence_penalty", json!([null, 0, 0.0])),
        ("frequency_penalty", json!([null, 0])),
        ("seed", json!([null, 5])),
        ("stream", json!([null, false])),
        ("stream_options", json!([null, {}, {"include_usage": null}])),
        ("max_completion_tokens", json!([null, 2])),
        (
            "chat_template_kwargs",
            json!([null, {}, {"enable_thinking": false}]),
        ),
    ] {
        for value in values.as_array().unwrap() {
            let mut more = json!({});
            more[field] = value.clone();
            let answer = ask(&json!([user]), more);
            assert_eq!(length(&answer), plain, "{field} {value}");
            assert_eq!(
                answer.json()["choices"][0]["message"]["content"],
                "aa",
                "{field} {value}"
            );
        }
    }
    // Null control: what would change the answer is refused by name.
    for (field, value) in [
        (
            "tools",
            json!([{"type": "function", "function": {"name": "f"}}]),
        ),
        ("tool_choice", json!("required")),
        ("functions", json!([{"name": "f"}])),
        ("function_call", json!({"name": "f"})),
        ("response_format", json!({"type": "json_object"})),
        ("modalities", json!(["text", "audio"])),
        ("audio", json!({"voice": "x", "format": "wav"})),
        ("prediction", json!({"type": "content", "content": "x"})),
        ("web_search_options", json!({})),
        ("reasoning_effort", json!("high")),
        ("verbosity", json!("low")),
        ("store", json!(true)),
        ("logit_bias", json!({"5": 1})),
        ("top_logprobs", json!(2)),
        ("stream_options", json!({"include_usage": true})),
        (
            "messages",
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        ),
        ("messages", json!([{"role": "user", "content": null}])),
        (
            "messages",
            json!([{"role": "user", "content": "x", "wings": 2}]),
        ),
    ] {
        let mut more = json!({});
        more[field] = value.clone();
        let answer = ask(&json!([user]), more);
        assert_eq!(answer.status, 400, "{field} {value}");
        let error = &answer.json()["error"];
        assert_eq!(error["param"], field, "{error}");
    }
}

/// A template that can't be run stops chats, and nothing else; a later one of Python's kind runs.
#[test]
fn a_broken_template_stops_chats_only() {
    let hub = Hub::new(&["<s>", "</s>"], 0, 2, json!({}));
    let model = hub.import();
    let body = json!({"messages": [{"role": "user", "content": "it's <b>"}], "max_tokens": 1});
    for (template, tokens) in [
        ("{{ messages[0].content | tojson }}", Some(10)),
        (
            "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
            Some(8),
        ),
        (
            "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
            Some(8),
        ),
        ("{{ bos_token }}{{ messages[0].content }}", Some(9)),
        ("{% if %}", None),
    ] {
        fs::write(model.join("chat_template.jinja"), template).unwrap();
        let server = Server::start(&model, &[]);
        let answer = server.post("/v1/chat/completions", &body);
        match tokens {
            Some(tokens) => assert_eq!(
                answer.json()["usage"]["prompt_tokens"],
                tokens,
                "{template}"
            ),
            None => {
                let error = &answer.json()["error"];
                let message = error["message"].as_str().unwrap();
                let named =
                    message.contains("chat_template.jinja") && message.contains("syntax error");
                assert!(answer.status == 400 && named, "{answer:?}");
                assert_eq!(error["code"], "unsupported_parameter");
            }
        }
        server.completion(&json!({"prompt": "hi", "max_tokens": 1}));
        assert_eq!(
            server.get("/tokenizer_info").json()["chat_template"],
            template
        );
    }
    // A path may end with a slash, and a name may have one.
    let server = Server::start(&model, &["--name", "me/model"]);
    let model = server.get("/v1/models").json()["data"][0].clone();
    assert_eq!(server.get("/v1/models/").json()["data"][0], model);
    for path in [
        "/v1/models/me/model",
        "/v1/models/me%2Fmodel",
        "/v1/models/me/model/",
    ] {
        assert_eq!(server.get(path).json(), model, "{path}");
    }
    assert_eq!(server.get("/v1/models/other/").status, 404);
    let answer = server.post(
        "/v1/completions/",
        &json!({"prompt": "hi", "max_tokens": 1}),
    );
    assert_eq!(answer.status, 200, "{answer:?}");
}
