//! The device of a command that computes, and `bam devices`.

use bam_lm::device::DeviceName;
use clap::Args;

#[derive(Args, Clone, Copy, Debug)]
pub struct DeviceArgs {
    /// Device that computes: cpu if not given, auto, or one that `bam devices` lists, such as cuda or
    /// cuda:1
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceName>,
}

#[derive(Args, Debug)]
pub struct DevicesArgs {
    /// Let them compute what is known beforehand; exit code 1 on a wrong answer
    #[arg(long)]
    pub check: bool,
    /// This one only
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceName>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}
