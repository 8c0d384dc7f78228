//! Compiled kernels, and what they take, as rows.

use crate::wheels;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The numbers that ptxas tells of a kernel: bytes, but for the registers of a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Takes {
    registers: u64,
    spill_stores: u64,
    spill_loads: u64,
    stack: u64,
}

impl Takes {
    /// The numbers in the words of `ptxas --verbose`.
    pub fn read(told: &str) -> Option<Self> {
        let before = |words: &str| {
            let (before, _) = told.split_once(words)?;
            before.rsplit([' ', '\n']).next()?.parse().ok()
        };
        Some(Self {
            registers: before(" registers")?,
            spill_stores: before(" bytes spill stores")?,
            spill_loads: before(" bytes spill loads")?,
            stack: before(" bytes stack frame")?,
        })
    }
}

/// A kernel, compiled one way for one compute capability.
pub struct Row {
    pub kernel: String,
    pub compiler: String,
    pub capability: u32,
    pub units: u64,
    pub shared: u64,
    /// Matrix products of a warp in the program's text.
    pub mma: usize,
    /// None where it does not compile.
    pub takes: Option<Takes>,
}

/// The name that CubeCL's runtime compiles for: with the features of one kind of GPU from 9.0 up.
pub fn architecture(capability: u32) -> String {
    format!("sm_{capability}{}", if capability < 90 { "" } else { "a" })
}

/// Bytes that a unit may store to memory for want of registers.
const TOLERATED: u64 = 64;

impl Row {
    /// The reason to fail, if there is one. A few bytes are no reason: ptxas spills them to reach a step of registers
    /// at which one cube more finds room.
    pub fn fault(&self) -> Option<String> {
        let architecture = architecture(self.capability);
        let here = format!("{} by {} for {architecture}", self.kernel, self.compiler);
        match self.takes {
            None => Some(format!("{here} does not compile")),
            Some(takes) if takes.spill_stores > TOLERATED => Some(format!(
                "{here} spills with {} of {} registers used: {} bytes stored, {} loaded",
                takes.registers,
                (65_536 / self.units.max(1)).min(255),
                takes.spill_stores,
                takes.spill_loads
            )),
            Some(_) => None,
        }
    }

    /// Cubes that a multiprocessor has registers, shared memory and units for: 65,536, 2,048 units, and
    /// 164 KiB on an A100, 228 on those after it.
    fn cubes(&self) -> u64 {
        let registers = self.takes.map_or(0, |takes| takes.registers).max(1);
        // Registers are given out by 256 a warp, shared memory with 1 KiB more a cube.
        let of_cube = (registers * 32).next_multiple_of(256) * self.units.div_ceil(32).max(1);
        let memory = if self.capability == 80 { 164 } else { 228 } * 1024;
        let of_memory = memory / (self.shared + 1024);
        (65_536 / of_cube)
            .min(of_memory)
            .min(2048 / self.units.max(1))
    }

    /// The row of a record.
    pub fn json(&self, date: &str, commit: &str) -> Value {
        let takes = self.takes.unwrap_or_default();
        json!({
            "date": date, "commit": commit, "cuda": wheels::CUDA_VERSION,
            "kernel": self.kernel, "compiler": self.compiler, "architecture": architecture(self.capability),
            "compiles": self.takes.is_some(), "units": self.units, "shared_bytes": self.shared,
            "mma_sync": self.mma, "registers": takes.registers, "stack_bytes": takes.stack,
            "spill_store_bytes": takes.spill_stores, "spill_load_bytes": takes.spill_loads,
            "cubes_per_multiprocessor": self.cubes(),
        })
    }
}

/// The worst of each kernel, head width and compiler, over types, rules and capabilities.
pub fn table(rows: &[Row]) -> String {
    let mut groups: BTreeMap<(&str, u32, &str), Vec<&Row>> = BTreeMap::new();
    for row in rows {
        let mut parts = row.kernel.split('-');
        let kernel = parts.next().unwrap_or_default();
        let width = parts.next().and_then(|part| part.parse().ok());
        let group = (kernel, width.unwrap_or(0), row.compiler.as_str());
        groups.entry(group).or_default().push(row);
    }
    let mut text = String::from(
        "| kernel | width | compiler | programs | units | shared bytes | mma.sync | registers | bytes spilled | loaded again \
         | stack bytes | cubes |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for ((kernel, width, compiler), of) in groups {
        let most = |number: fn(&Row) -> u64| of.iter().map(|row| number(row)).max().unwrap_or(0);
        let taken = |number: fn(Takes) -> u64| {
            let all = of.iter().filter_map(|row| row.takes);
            all.map(number).max().unwrap_or(0)
        };
        let width = match width {
            0 => "any".into(),
            width => width.to_string(),
        };
        text += &format!(
            "| {kernel} | {width} | {compiler} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            of.len(),
            most(|row| row.units),
            most(|row| row.shared),
            most(|row| row.mma as u64),
            taken(|takes| takes.registers),
            taken(|takes| takes.spill_stores),
            taken(|takes| takes.spill_loads),
            taken(|takes| takes.stack),
            of.iter().map(|row| row.cubes()).min().unwrap_or(0),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: &str = "ptxas info    : 0 bytes gmem\n\
        ptxas info    : Compiling entry function 'forward_f_f32' for 'sm_90a'\n\
        ptxas info    : Function properties for forward_f_f32\n    \
        16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n\
        ptxas info    : Used 255 registers, used 1 barriers\n";

    fn row(told: &str) -> Row {
        Row {
            kernel: "forward-64-f32-causal".into(),
            compiler: "cpp".into(),
            capability: 90,
            units: 128,
            shared: 32_768,
            mma: 0,
            takes: Takes::read(told),
        }
    }

    #[test]
    fn a_large_spill_is_a_fault_and_a_few_bytes_are_none() {
        let spills = row(&TOLD.replace(" 8 bytes", " 88 bytes"));
        assert_eq!(spills.cubes(), 2);
        let expected = "forward-64-f32-causal by cpp for sm_90a spills with 255 of 255 registers used: 88 bytes stored, 12 loaded";
        assert_eq!(spills.fault().unwrap(), expected);
        assert_eq!(row(TOLD).fault(), None);
        assert!(row("").fault().unwrap().contains("does not compile"));
    }

    #[test]
    fn the_table_has_the_worst_of_a_kernel() {
        let rows = [row(TOLD), row(&TOLD.replace("255", "100"))];
        let last = "| forward | 64 | cpp | 2 | 128 | 32768 | 0 | 255 | 8 | 12 | 16 | 2 |\n";
        assert!(table(&rows).ends_with(last), "{}", table(&rows));
    }
}
