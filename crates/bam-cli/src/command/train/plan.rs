//! `bam train --plan`.

use crate::args::PlanArgs;
use crate::{console, device, ranks};
use bam_lm::device::DeviceName;
use bam_lm::train::Recipe;
use bam_lm::train::plan::{Measured, Memory, Plan, measure};
use bam_report::text::{duration, thousands};
use serde::Serialize;
use std::process::ExitCode;

/// A plan, and what is known of the device.
#[derive(Serialize)]
struct Planned {
    #[serde(flatten)]
    plan: Plan,
    /// Bytes of the device, where they are known.
    device_memory: Option<u64>,
    /// The fewest parts that fit them.
    fewest_parts: Option<usize>,
    measured: Option<Measured>,
    time: Option<Time>,
}

/// The time of a run at some speed.
#[derive(Clone, Copy, Serialize)]
struct Time {
    /// 10¹² operations a second.
    tflops: f64,
    tokens_per_second: f64,
    step_seconds: f64,
    seconds: f64,
}

pub fn run(
    args: &PlanArgs,
    recipe: &Recipe,
    vocabulary: usize,
    threads: usize,
) -> anyhow::Result<ExitCode> {
    // With the memory of a device given, the plan may be for another machine's.
    let name = recipe.train.device;
    let elsewhere = args.memory.is_some() && !args.measure && name != DeviceName::Cpu;
    let opened = (!elsewhere).then(|| device::open(name)).transpose()?;
    let ranks = args.ranks.unwrap_or_else(|| ranks::all().size());
    let plan = Plan::new(recipe, vocabulary, opened.as_ref(), threads, ranks)?;
    let device_memory = match args.memory {
        Some(gib) => Some((gib * GIB) as u64),
        None => device::info(name)?.memory,
    };
    let measured = opened.as_ref().filter(|_| args.measure);
    let measured = measured
        .map(|device| measure(recipe, vocabulary, device, threads, console::seconds))
        .transpose()?;
    let given = args.tflops.map(|x| plan.step_flops / (x * 1e12));
    let step_seconds = measured.map(|of| of.step_seconds).or(given);
    let planned = Planned {
        device_memory,
        fewest_parts: device_memory.and_then(|bytes| plan.fewest_parts(bytes)),
        measured,
        time: step_seconds.map(|step_seconds| Time {
            tflops: plan.step_flops / step_seconds / 1e12,
            tokens_per_second: plan.step_tokens as f64 / step_seconds,
            step_seconds,
            seconds: plan.steps as f64 * step_seconds,
        }),
        plan,
    };
    console::answer(args.json, &planned, || text(&planned, recipe))?;
    Ok(ExitCode::SUCCESS)
}

fn text(planned: &Planned, recipe: &Recipe) -> String {
    let (plan, train) = (&planned.plan, &recipe.train);
    let parameters = thousands(plan.parameters as usize);
    let learned = match plan.learned == plan.parameters {
        true => "all learned".to_owned(),
        false => format!("{} learned", thousands(plan.learned as usize)),
    };
    let step_tokens = thousands(plan.step_tokens as usize);
    let (rows, length, parts) = (train.rows, train.length, train.parts);
    let (steps, tokens) = (
        thousands(plan.steps as usize),
        thousands(plan.tokens as usize),
    );
    let flops = plan.step_flops;
    let mut text = format!(
        "parameters  {parameters}, {learned}\n\
         step        {step_tokens} tokens: {rows} rows of {length}, in {parts} parts of {}\n\
         run         {steps} steps, {tokens} tokens\n\
         work        {flops:.3e} operations a step, {:.3e} in all\n",
        rows / parts,
        flops * plan.steps as f64
    );
    if plan.ranks > 1 {
        text += &format!(
            "ranks       {}, each sends and receives {} a step; memory is that of one\n",
            plan.ranks,
            gib(plan.sent)
        );
    }
    text += &memory(&plan.memory);
    text += "by parts    ";
    let by_parts = plan.by_parts.iter();
    let by_parts = by_parts.map(|of| format!("{}: {}", of.parts, gib(of.total)));
    text += &(by_parts.collect::<Vec<_>>().join(", ") + "\n");
    text += &match (planned.device_memory, planned.fewest_parts) {
        (None, _) => "device      its memory is not known; --memory says it\n".to_owned(),
        (Some(bytes), Some(parts)) => {
            format!("device      {}: train.parts={parts} at least\n", gib(bytes))
        }
        (Some(bytes), None) => format!(
            "device      {}: too small for any train.parts\n",
            gib(bytes)
        ),
    };
    let from = match planned.measured {
        Some(measured) => format!("measured on {} of {parts} parts", measured.parts),
        None => "as given".to_owned(),
    };
    text += &match planned.time {
        None => "time        not known; --tflops or --measure\n".to_owned(),
        Some(time) => format!(
            "time        {:.3} s a step, {} in all, {:.0} tokens/s at {:.3} TFLOP/s, {from}\n",
            time.step_seconds,
            duration(time.seconds),
            time.tokens_per_second,
            time.tflops
        ),
    };
    text
}

fn memory(of: &Memory) -> String {
    let [weights, gradients, optimizer, activations] =
        [of.weights, of.gradients, of.optimizer, of.activations].map(gib);
    let exchange = match of.exchange {
        0 => String::new(),
        bytes => format!("exchange {}, ", gib(bytes)),
    };
    format!(
        "memory      {}: weights {weights}, gradients {gradients}, optimizer {optimizer}, {exchange}activations of {} \
         at once {activations}\n",
        gib(of.total),
        match of.parts_at_once {
            1 => "1 part".to_owned(),
            parts => format!("{parts} parts"),
        }
    )
}

const GIB: f64 = (1_u64 << 30) as f64;

fn gib(bytes: u64) -> String {
    let gib = bytes as f64 / GIB;
    match gib < 0.1 {
        true => format!("{:.1} MiB", gib * 1024.0),
        false => format!("{gib:.1} GiB"),
    }
}
