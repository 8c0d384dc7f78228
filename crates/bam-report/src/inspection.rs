//! Findings of `bam inspect` and `bam doctor`, as text for a terminal.

use crate::findings::reach;
use crate::table::Table;
use crate::text::{bytes, class, counted, fixed, number, plain, thousands};
use bam_record::{
    Checkup, Context, Glance, Head, HeadCheckup, Heads, Measured, MeasuredHead, Passkey, ReadToken,
    Reading,
};

/// A line a head: where its prior's mass lies, its posterior on a text, class and parameters.
pub fn heads(encoding: &str, heads: &Heads, curves: bool) -> String {
    let keys = counted(heads.row_keys, "key");
    let mut text = format!("{encoding} · prior mass over a causal row of {keys}\n");
    if let Some(measured) = &heads.measured {
        text += &format!(
            "on {} · means over {} in the second half of {}; priors with the rows' temperature\n",
            plain(&measured.text),
            counted(measured.rows, "row"),
            counted(measured.length, "token")
        );
    }
    text += "\n";
    text += &match &heads.measured {
        None => priors(heads).text(),
        Some(measured) => posteriors(heads, measured).text(),
    };
    if curves {
        text += "\nln w by distance, relative to the largest\n";
        for head in &heads.heads {
            let points = head.curve.iter().map(|(r, ln_w)| format!("{r}:{ln_w:.3}"));
            let points: Vec<String> = points.collect();
            text += &format!("{}  {}\n", name(head.layer, head.head), points.join(" "));
        }
    }
    text
}

fn name(layer: usize, head: usize) -> String {
    format!("{layer}.{head}")
}

fn priors(heads: &Heads) -> Table {
    let row = |head: &Head| {
        let mut row = vec![name(head.layer, head.head)];
        row.extend(head.mass_lags.map(lag));
        row.push(fixed(head.entropy, 2));
        row.push(described(head));
        row
    };
    Table {
        header: "layer.head · 50 % · 90 % · 99 % · entropy · class and parameters".into(),
        rows: heads.heads.iter().map(row).collect(),
    }
}

fn posteriors(heads: &Heads, measured: &Measured) -> Table {
    let row = |(head, of_text): (&Head, &MeasuredHead)| {
        let mut row = vec![name(head.layer, head.head)];
        row.extend(of_text.prior_mass_lags.map(lag));
        row.extend(of_text.posterior_mass_lags.map(lag));
        row.push(fixed(of_text.divergence, 2));
        row.push(fixed(of_text.entropy, 2));
        row.push(fixed(of_text.ln_evidence, 2));
        row.push(described(head));
        row
    };
    Table {
        header: "layer.head · prior 50 % · 90 % · 99 % · posterior 50 % · 90 % · 99 % · KL · entropy · ln evidence · class and parameters".into(),
        rows: heads.heads.iter().zip(&measured.heads).map(row).collect(),
    }
}

fn lag(lag: f64) -> String {
    thousands(lag.max(0.0) as usize)
}

/// Class, family and parameters.
pub fn described(head: &Head) -> String {
    const MOST: usize = 6;
    let parameters = head.parameters.iter().take(MOST);
    let mut parts: Vec<String> = parameters
        .map(|(name, value)| format!("{} {}", plain(name), fixed(*value, 4)))
        .collect();
    if head.parameters.len() > MOST {
        parts.push(format!("… {} in all", head.parameters.len()));
    }
    if let Some(scale) = head.ssmax_scale {
        parts.push(format!("ssmax {}", fixed(scale, 3)));
    }
    let class = class(&head.class);
    format!("{class}, {}  {}", plain(&head.family), parts.join("  "))
}

/// The reach of heads, the size of a cache, and the longest context at which passkeys were found.
pub fn context(encoding: &str, context: &Context, passkey: Option<&Passkey>) -> String {
    let epsilon = context.epsilon;
    let mut text = format!(
        "{encoding} · rows of up to {} · whatever is read, at most {epsilon:e} of a row's \
         posterior lies beyond a horizon\n\n",
        counted(context.length, "key")
    );
    let horizon = |horizon: Option<usize>| horizon.map_or("none".into(), thousands);
    let rows = context.heads.iter().map(|head| {
        vec![
            name(head.layer, head.head),
            fixed(head.content_bound, 2),
            horizon(head.prior_horizon),
            horizon(head.horizon),
            thousands(head.keys),
            class(&head.class),
        ]
    });
    let horizons = Table {
        header: "layer.head · |q·k|/√D at most · prior's horizon · certified horizon · keys that suffice · class".into(),
        rows: rows.collect(),
    };
    let beyond = context.beyond.iter();
    let beyond = Table {
        header: "beyond lag · heads · ".into(),
        rows: beyond
            .map(|(lag, heads)| vec![thousands(*lag), heads.to_string(), String::new()])
            .collect(),
    };
    let all = counted(context.heads.len(), "head");
    text += &horizons.text();
    text += &format!(
        "\nof {all}, those that some text may give more than {epsilon:e} beyond a lag\n\n{}\n",
        beyond.text()
    );
    text += &predicted(context);
    text += &measured(passkey);
    let [full, certified] = [context.cache_bytes, context.certified_cache_bytes];
    text += &format!(
        "keys and values of the longest row: {} in full, {} within the horizons ({:.0} %)\n",
        bytes(full),
        bytes(certified),
        100.0 * certified as f64 / full.max(1) as f64
    );
    text
}

fn predicted(context: &Context) -> String {
    let everywhere = context.heads.iter().filter(|head| head.horizon.is_none());
    match everywhere.count() {
        0 => format!(
            "predicted: no head can look beyond {}\n",
            counted(context.reach, "token")
        ),
        count => format!(
            "predicted: {count} of {} can look over the whole row of {}\n",
            counted(context.heads.len(), "head"),
            counted(context.length, "key")
        ),
    }
}

fn measured(passkey: Option<&Passkey>) -> String {
    let Some(passkey) = passkey else {
        return "measured:  no passkey record\n".into();
    };
    match reach(passkey) {
        None => "measured:  at no length are more than half of the passkeys found\n".into(),
        Some(reach) => format!(
            "measured:  more than half of the passkeys are found up to {} ({} of {} there; \
             {} is the longest that was tried)\n",
            counted(reach.last.length, "token"),
            reach.last.correct,
            reach.last.samples,
            thousands(reach.longest.length)
        ),
    }
}

/// A line a head: whether its numbers hold, and why not where they don't.
pub fn checkup(encoding: &str, checkup: &Checkup) -> String {
    let [f32_step, bf16_step] = checkup.lag_steps.map(number);
    let mut text = format!(
        "{encoding} · rows of up to {} · numbers near that lag are {f32_step} apart in f32, \
         {bf16_step} in bf16\n\n",
        counted(checkup.length, "key")
    );
    for broken in &checkup.broken {
        text += &format!("error: {}\n", plain(broken));
    }
    let row = |head: &HeadCheckup| {
        let reasons: Vec<String> = head.reasons.iter().map(|reason| plain(reason)).collect();
        let mut verdict = head.verdict.clone();
        if !reasons.is_empty() {
            verdict += &format!(": {}", reasons.join("; "));
        }
        vec![
            name(head.layer, head.head),
            number(head.ln_weights[0]),
            number(head.ln_weights[1]),
            number(head.logit_bound),
            head.zero_from.map_or("–".into(), thousands),
            number(head.f32_step),
            number(head.bf16_step),
            verdict,
        ]
    };
    let table = Table {
        header: "layer.head · ln w from · to · logits within · 0 in f32 from · f32 step · bf16 step · verdict".into(),
        rows: checkup.heads.iter().map(row).collect(),
    };
    let count = |verdict: &str| {
        let heads = checkup.heads.iter();
        heads.filter(|head| head.verdict == verdict).count()
    };
    text += &table.text();
    text += &format!(
        "\n{}: {} ok, {} with warnings, {} with errors\n",
        counted(checkup.heads.len(), "head"),
        count("ok"),
        count("warning"),
        count("error")
    );
    text
}

/// A line a token, for where there are no colours.
pub fn listed(encoding: &str, reading: &Reading) -> String {
    let rows = reading.tokens.iter().enumerate();
    let rows = rows.map(|(position, token)| {
        vec![
            thousands(position),
            fixed(token.mean.ln_evidence, 2),
            fixed(token.mean.mean_distance, 1),
            format!("{:.0} %", 100.0 * token.mean.near_mass),
            format!("{:?}", token.text),
        ]
    });
    let table = Table {
        header: "position · ln evidence · mean distance · near · token".into(),
        rows: rows.collect(),
    };
    format!("{}\n{}", opening(encoding, reading), table.text())
}

fn opening(encoding: &str, reading: &Reading) -> String {
    let of = match reading.heads.as_slice() {
        [(layer, head)] => format!("layer {layer}, head {head}"),
        heads => format!("means over {}", counted(heads.len(), "head")),
    };
    format!(
        "{encoding} on {} · {of} · near is within {}\n",
        plain(&reading.text),
        counted(reading.near, "token")
    )
}

/// The text twice: coloured by evidence, and by how far the posterior looks.
pub fn coloured(encoding: &str, reading: &Reading) -> String {
    let scale = Scale::of(reading);
    let mut text = opening(encoding, reading);
    text += &format!(
        "\nln evidence from {} {} to {}\n\n",
        fixed(scale.evidence.0, 2),
        legend(&EVIDENCE),
        fixed(scale.evidence.1, 2)
    );
    text += &painted(reading, &EVIDENCE, |glance| scale.evidence(glance));
    text += &format!(
        "\n\nmean distance from 0 {} to {}\n\n",
        legend(&DISTANCE),
        counted(scale.longest as usize, "token")
    );
    text += &painted(reading, &DISTANCE, |glance| scale.distance(glance));
    text += "\n";
    text
}

/// Backgrounds of a terminal's 256 colours with the foreground that can be read on them.
type Ramp = [(u8, u8); 6];
const EVIDENCE: Ramp = [
    (255, 16),
    (230, 16),
    (222, 16),
    (214, 16),
    (166, 231),
    (88, 231),
];
const DISTANCE: Ramp = [
    (255, 16),
    (153, 16),
    (111, 16),
    (68, 231),
    (26, 231),
    (18, 231),
];

fn legend(ramp: &Ramp) -> String {
    let steps = ramp.iter();
    let steps: Vec<String> = steps
        .map(|(back, _)| format!("\x1b[48;5;{back}m  "))
        .collect();
    format!("{}\x1b[0m", steps.concat())
}

fn painted(reading: &Reading, ramp: &Ramp, share: impl Fn(&Glance) -> f64) -> String {
    let paint = |token: &ReadToken| {
        let step = (share(&token.mean) * ramp.len() as f64) as usize;
        let (back, front) = ramp[step.min(ramp.len() - 1)];
        let lines = token.text.split('\n');
        let lines: Vec<String> = lines
            .map(|line| match line {
                "" => String::new(),
                line => format!("\x1b[48;5;{back};38;5;{front}m{}\x1b[0m", plain(line)),
            })
            .collect();
        lines.join("\n")
    };
    reading.tokens.iter().map(paint).collect()
}

/// The ends of colour scales.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// All but the twentieth of the tokens at either end.
    pub evidence: (f64, f64),
    /// The farthest that a token could look.
    pub longest: f64,
}

impl Scale {
    /// The scale of one text.
    pub fn of(reading: &Reading) -> Self {
        let tokens = reading.tokens.iter();
        let mut evidence: Vec<f64> = tokens.map(|token| token.mean.ln_evidence).collect();
        evidence.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let index = (part * evidence.len().saturating_sub(1) as f64).round();
            evidence.get(index as usize).copied().unwrap_or(0.0)
        };
        Self {
            evidence: (at(0.05), at(0.95)),
            longest: reading.tokens.len().saturating_sub(1) as f64,
        }
    }

    /// From 0 to 1, linear.
    pub fn evidence(&self, glance: &Glance) -> f64 {
        let (low, high) = self.evidence;
        ((glance.ln_evidence - low) / (high - low).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)
    }

    /// From 0 to 1, logarithmic.
    pub fn distance(&self, glance: &Glance) -> f64 {
        let whole = self.longest.max(1.0).ln_1p();
        (glance.mean_distance.max(0.0).ln_1p() / whole).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests;
