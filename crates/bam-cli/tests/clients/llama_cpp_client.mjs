// `bam export gguf` beside llama.cpp: the same tokens, the same probabilities, the same greedy text.
//
//     node llama_cpp_client.mjs BAM MODEL
//
// BAM is the program, MODEL a folder of an ALiBi or rotary model with its tokenizer. Wants the npm package
// node-llama-cpp, with its prebuilt llama.cpp, in the folder NODE_PATH or beside this file.

import {execFileSync, spawn} from "node:child_process";
import {cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync} from "node:fs";
import {createRequire} from "node:module";
import {tmpdir} from "node:os";
import {join} from "node:path";
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";

const [bam, model] = process.argv.slice(2);
const require = createRequire(join(process.env.NODE_PATH ?? ".", "x.js"));
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(require.resolve("node-llama-cpp")).href);
// Largest difference of two ln p, of tokens that are not hopeless.
const TOLERANCE = 1e-3;
const HOPELESS = 1e-5;
const TEXTS = [
    "The prior of a head is what it believes before it reads 12,345 tokens.",
    "  two spaces,\n\nnew lines\tand tabs  ",
    "naïve café — “quoted” 漢字 🙂 x² ½ Ⅷ ٣",
    "it's we'll they'd I'M don't 'tis <s> </s>",
    "a1b22c333 3.14159 $100 [0:9] {x_1}",
];

const assert = (truth, message) => {
    if (!truth) throw new Error(message);
};

/** `bam logits`: a row of tokens in, a row of logits for each out. */
function logits(folder, tokens) {
    const header = JSON.stringify({tokens: {dtype: "I64", shape: [1, tokens.length], data_offsets: [0, 8 * tokens.length]}});
    const file = Buffer.alloc(8 + header.length + 8 * tokens.length);
    file.writeBigUInt64LE(BigInt(header.length));
    file.write(header, 8);
    tokens.forEach((token, index) => file.writeBigInt64LE(BigInt(token), 8 + header.length + 8 * index));
    const [input, output] = ["tokens", "logits"].map((name) => join(work, `${name}.safetensors`));
    writeFileSync(input, file);
    execFileSync(bam, ["logits", folder, "--tokens", input, "--out", output]);
    const bytes = readFileSync(output);
    const start = 8 + Number(bytes.readBigUInt64LE());
    const values = new Float32Array(bytes.buffer.slice(bytes.byteOffset + start, bytes.byteOffset + bytes.length));
    const width = values.length / tokens.length;
    return tokens.map((_, row) => values.subarray(row * width, (row + 1) * width));
}

/** Largest difference of ln p between their probabilities and those of our logits. */
function farthest(rows, theirs) {
    let most = 0;
    rows.forEach((row, index) => {
        const largest = Math.max(...row);
        const total = row.reduce((sum, x) => sum + Math.exp(x - largest), 0);
        for (const [token, probability] of theirs[index].next.probabilities)
            if (probability > HOPELESS)
                most = Math.max(most, Math.abs(Math.log(probability) - (row[token] - largest - Math.log(total))));
    });
    return most;
}

/** Our tokens of each text, asked of `bam serve`. */
async function tokensOf(texts) {
    const server = spawn(bam, ["serve", model, "--listen", "127.0.0.1:0"], {stdio: ["ignore", "pipe", "ignore"]});
    try {
        for await (const line of createInterface(server.stdout)) {
            const address = line.match(/http:\/\/[^,\s]+/)[0];
            return await Promise.all(texts.map(async (prompt) => {
                const body = JSON.stringify({prompt, add_special_tokens: false});
                const headers = {"Content-Type": "application/json"};
                const answer = await fetch(`${address}/tokenize`, {method: "POST", body, headers});
                return (await answer.json()).tokens;
            }));
        }
    } finally {
        server.kill();
    }
}

const work = mkdtempSync(join(tmpdir(), "bam-"));
try {
    const path = join(work, "model.gguf");
    execFileSync(bam, ["export", "gguf", model, "--out", path], {stdio: "ignore"});
    const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error});
    const theirs = await llama.loadModel({modelPath: path, gpuLayers: 0});
    const ours = await tokensOf(TEXTS);
    TEXTS.forEach((text, index) => {
        const tokens = theirs.tokenize(text);
        assert(JSON.stringify(tokens) === JSON.stringify(ours[index]), `${text}: ${ours[index]} and ${tokens}`);
    });

    const config = JSON.parse(readFileSync(join(model, "config.json")));
    const [begin] = theirs.tokens.shouldPrependBosToken ? [theirs.tokens.bos] : [];
    const length = 3 * config.train_length;
    const row = [begin, ...Array(50).fill(ours.flat()).flat()].slice(0, length);
    const context = await theirs.createContext({
        contextSize: length + 64, flashAttention: false,
        experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32",
    });
    const sequence = context.getSequence();
    const asked = row.map((token) => [token, {generateNext: {probabilities: true}}]);
    const found = await sequence.controlledEvaluate(asked);
    const error = farthest(logits(model, row), found);

    // An impostor: the same weights with no positions, or with others.
    const impostor = join(work, "impostor");
    cpSync(model, impostor, {recursive: true, filter: (name) => !name.includes("checkpoint-")});
    if (config.position_embedding_type === "rotary") config.rope_theta = 3;
    else config.position_embedding_type = "nope";
    writeFileSync(join(impostor, "config.json"), JSON.stringify(config));
    const control = farthest(logits(impostor, row), found);
    const name = theirs.fileInfo.metadata.general.architecture;
    console.log(`${model} as ${name}: ${row.length} tokens, ln p differ by at most ${error.toExponential(1)}; an impostor by ${control.toExponential(1)}`);
    assert(error < TOLERANCE && TOLERANCE < 0.1 * control, "they differ");

    await sequence.clearHistory();
    const tokens = [];
    for await (const token of sequence.evaluate([begin, ...theirs.tokenize(TEXTS[0])], {temperature: 0})) {
        tokens.push(token);
        if (tokens.length === 24) break;
    }
    const said = execFileSync(bam, ["generate", model, "--prompt", TEXTS[0], "--tokens", "24", "--temperature", "0"], {encoding: "utf8"});
    const text = theirs.detokenize(tokens);
    assert(said.trimEnd() === (TEXTS[0] + text).trimEnd(), `${JSON.stringify(said)} and ${JSON.stringify(text)}`);
    console.log(`greedy, both: ${JSON.stringify(text)}`);
    await llama.dispose();
} finally {
    rmSync(work, {recursive: true, force: true});
}
