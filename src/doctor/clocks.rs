//! Clocks and governors of the NPU, the DDR memory, the CPU and the GPU.

use super::finding::{Check, Finding};
use super::system::{System, Unread};

/// The NPU's clock.
pub const NPU: Check = Check {
    id: "clocks.npu",
    title: "NPU clock",
    why: "speed follows it; measurements need it fixed at its maximum, 1000 MHz",
};

/// The memory's clock.
pub const DDR: Check = Check {
    id: "clocks.ddr",
    title: "memory clock",
    why: "reading weights is what token by token takes; measurements need it fixed at its maximum",
};

/// The CPU's clocks.
pub const CPU: Check = Check {
    id: "clocks.cpu",
    title: "CPU clocks",
    why: "the CPU computes what is between matmuls; measurements need it fixed at its maximum",
};

/// The GPU's clock.
pub const GPU: Check = Check {
    id: "clocks.gpu",
    title: "GPU clock",
    why: "only for the record: a busy GPU takes memory bandwidth and heats the chip",
};

/// Idle states of the CPU.
pub const IDLE: Check = Check {
    id: "clocks.idle",
    title: "CPU idle states",
    why: "waking up adds to each step; measurements turn the deep state off",
};

const DEVFREQ: &str = "/sys/class/devfreq";
const CPUFREQ: &str = "/sys/devices/system/cpu/cpufreq";
const CPUS: &str = "/sys/devices/system/cpu";

/// What is to be said of clocks.
pub fn findings(system: &System) -> Vec<Finding> {
    let of = |check: &Check, found: Result<String, String>| match found {
        Ok(folder) => of_device(system, check, &folder),
        Err(why) => check.info(format!("not checked: {why}")),
    };
    vec![
        of(&NPU, npu_device(system)),
        of(&DDR, ddr_device(system)),
        cpu(system),
        gpu(system, device(system, |name| name.ends_with("gpu"))),
        idle(system),
    ]
}

/// Folder of the NPU's clock, or why there is none.
pub fn npu_device(system: &System) -> Result<String, String> {
    device(system, |name| name.ends_with("npu"))
}

/// Folder of the memory's clock, or why there is none.
pub fn ddr_device(system: &System) -> Result<String, String> {
    device(system, |name| name == "dmc")
}

/// Folder of the first devfreq device whose name is right.
fn device(system: &System, is_it: impl Fn(&str) -> bool) -> Result<String, String> {
    let names = system.list(DEVFREQ).unwrap_or_default();
    let found = names.into_iter().find(|name| is_it(name));
    found.map(|name| format!("{DEVFREQ}/{name}")).ok_or_else(|| format!("{DEVFREQ} has none"))
}

/// What a devfreq device runs at now, in Hz.
pub fn frequency(system: &System, folder: &str) -> Result<u64, (String, Unread)> {
    let path = format!("{folder}/cur_freq");
    system.number(&path).map_err(|unread| (path, unread))
}

/// Names of the groups of CPUs that have one clock.
pub fn policies(system: &System) -> Vec<String> {
    system.numbered(CPUFREQ, "policy")
}

/// What the CPUs of a policy run at now, in kHz.
pub fn policy_frequency(system: &System, policy: &str) -> Result<u64, (String, Unread)> {
    let path = format!("{CPUFREQ}/{policy}/scaling_cur_freq");
    system.number(&path).map_err(|unread| (path, unread))
}

/// A clock, in any unit.
struct Clock {
    governor: String,
    now: u64,
    /// Highest frequency that is allowed now.
    allowed: Option<u64>,
    /// Highest frequency that there is.
    top: u64,
}

/// How a clock is governed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// At its maximum, and stays there.
    Fixed,
    /// Goes up and down with the work.
    Varies,
    /// Stays below its maximum whatever the work.
    Slow,
}

impl Clock {
    fn state(&self) -> State {
        let capped = self.allowed.is_some_and(|allowed| allowed < self.top);
        match self.governor.as_str() {
            "powersave" => State::Slow,
            _ if capped => State::Slow,
            "userspace" if self.now < self.top => State::Slow,
            "userspace" => State::Fixed,
            "performance" if self.now >= self.top => State::Fixed,
            _ => State::Varies,
        }
    }

    /// For people; `unit` of it are a MHz.
    fn shown(&self, unit: u64) -> String {
        let Clock { governor, now, top, .. } = self;
        let mut text = format!("{} of {} MHz, governor {governor}", now / unit, top / unit);
        if let Some(allowed) = self.allowed.filter(|allowed| allowed < top) {
            text += &format!(", at most {} MHz allowed", allowed / unit);
        }
        text
    }
}

fn of_device(system: &System, check: &Check, folder: &str) -> Finding {
    let clock = match device_clock(system, folder) {
        Ok(clock) => clock,
        Err((path, unread)) => return check.unread(&path, &unread),
    };
    let value = clock.shown(1_000_000);
    let top = clock.top;
    let mut fix = format!("echo performance | sudo tee {folder}/governor");
    if clock.allowed.is_some_and(|allowed| allowed < top) {
        fix = format!("echo {top} | sudo tee {folder}/max_freq && {fix}");
    }
    match clock.state() {
        State::Fixed => check.ok(value),
        State::Varies => check.info(value).with_fix(format!("{fix}   # before measuring")),
        State::Slow => check.warning(value, fix),
    }
}

/// The clock of a devfreq device, in Hz.
fn device_clock(system: &System, folder: &str) -> Result<Clock, (String, Unread)> {
    let file = |name: &str| format!("{folder}/{name}");
    let path = file("governor");
    let governor = system.line(&path).map_err(|unread| (path, unread))?;
    let now = frequency(system, folder)?;
    let allowed = system.number(file("max_freq")).ok();
    let available = system.line(file("available_frequencies")).unwrap_or_default();
    let top = available.split_whitespace().filter_map(|number| number.parse().ok()).max();
    Ok(Clock { governor, now, allowed, top: top.or(allowed).unwrap_or(now).max(now) })
}

fn cpu(system: &System) -> Finding {
    let mut details = Vec::new();
    let mut worst = State::Fixed;
    let mut capped = false;
    for policy in policies(system) {
        let file = |name: &str| format!("{CPUFREQ}/{policy}/{name}");
        let (Ok(governor), Ok(now)) =
            (system.line(file("scaling_governor")), policy_frequency(system, &policy))
        else {
            details.push(format!("{policy}: cannot be read"));
            worst = worst.max(State::Varies);
            continue;
        };
        let allowed: Option<u64> = system.number(file("scaling_max_freq")).ok();
        let top: Option<u64> = system.number(file("cpuinfo_max_freq")).ok();
        let top = top.or(allowed).unwrap_or(now);
        let clock = Clock { governor, now, allowed, top };
        capped |= clock.allowed.is_some_and(|allowed| allowed < top);
        worst = worst.max(clock.state());
        details.push(format!("{policy}: {}", clock.shown(1000)));
    }
    if details.is_empty() {
        return CPU.info(format!("not checked: {CPUFREQ} has no policy"));
    }
    let fix = if capped {
        format!(
            "for p in {CPUFREQ}/policy*; do sudo cp $p/cpuinfo_max_freq $p/scaling_max_freq; done; echo \
             performance | sudo tee {CPUFREQ}/policy*/scaling_governor"
        )
    } else {
        format!("echo performance | sudo tee {CPUFREQ}/policy*/scaling_governor")
    };
    match worst {
        State::Fixed => CPU.ok("fixed"),
        State::Varies => {
            CPU.info("vary with the work").with_fix(format!("{fix}   # before measuring"))
        }
        State::Slow => CPU.warning("some stay below their maximum", fix),
    }
    .with_details(details)
}

fn gpu(system: &System, folder: Result<String, String>) -> Finding {
    let folder = match folder {
        Ok(folder) => folder,
        Err(why) => return GPU.info(format!("not checked: {why}")),
    };
    match device_clock(system, &folder) {
        Ok(clock) => GPU.ok(clock.shown(1_000_000)),
        Err((path, unread)) => GPU.unread(&path, &unread),
    }
}

fn idle(system: &System) -> Finding {
    let paths = system.numbered(CPUS, "cpu").into_iter();
    let paths = paths.map(|cpu| format!("{CPUS}/{cpu}/cpuidle/state1/disable"));
    let states: Vec<u64> = paths.filter_map(|path| system.number(path).ok()).collect();
    let on = states.iter().filter(|&&disabled| disabled == 0).count();
    match (states.len(), on) {
        (0, _) => IDLE.ok("none that can be turned off"),
        (_, 0) => IDLE.ok("off"),
        (all, on) => IDLE.info(format!("on for {on} of {all} CPUs")).with_fix(format!(
            "echo 1 | sudo tee {CPUS}/cpu*/cpuidle/state1/disable   # before measuring"
        )),
    }
}
