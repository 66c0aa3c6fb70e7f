//! The NPU's driver: which one it is, its version, its switches, its cores and its IOMMU.

use super::finding::{Check, Finding};
use super::system::{System, Unread};
use tessera_runtime::rknn::Version;

/// The vendor's driver.
pub const VENDOR: Check = Check {
    id: "driver.vendor",
    title: "NPU driver of the vendor",
    why: "librknnrt speaks to the vendor's driver `rknpu` only",
};

/// The driver of the mainline kernel.
pub const MAINLINE: Check = Check {
    id: "driver.mainline",
    title: "NPU driver of the mainline kernel",
    why: "`rocket` takes the NPU, and librknnrt cannot use it",
};

/// Version of the vendor's driver.
pub const VERSION: Check = Check {
    id: "driver.version",
    title: "NPU driver version",
    why: "the matmuls of packs need 0.9.6 or newer; 0.9.8 has 16 domains of 4 GiB and is what is tested most",
};

/// Parameters of the driver.
pub const PARAMETERS: Check = Check {
    id: "driver.parameters",
    title: "NPU driver parameters",
    why: "they turn off interrupts or the reset after a fault: then jobs time out, and the NPU stays stuck",
};

/// Cores of the NPU.
pub const CORES: Check =
    Check { id: "npu.cores", title: "NPU cores", why: "work is divided among three cores" };

/// IOMMU of the NPU.
pub const IOMMU: Check = Check {
    id: "npu.iommu",
    title: "NPU IOMMU",
    why: "without it buffers must be in one piece, out of the CMA, which is much smaller than a model",
};

/// IOMMU domains.
pub const DOMAINS: Check = Check {
    id: "npu.domains",
    title: "NPU domains",
    why: "a domain is 4 GiB of addresses: a pack with more tiles needs several",
};

/// SRAM of the NPU.
pub const SRAM: Check = Check {
    id: "npu.sram",
    title: "NPU SRAM",
    why: "it may hold intermediate values; weights never fit, so nothing depends on it",
};

/// What the NPU does now.
pub const LOAD: Check = Check {
    id: "npu.load",
    title: "NPU load",
    why: "another program slows both, and two with several domains can panic the kernel",
};

/// Oldest driver that works.
const OLDEST: Version = Version(0, 9, 6);

/// Driver that is recommended.
const RECOMMENDED: Version = Version(0, 9, 8);

/// Cores of an RK3588's NPU.
const CORE_COUNT: usize = 3;

/// Address of the first core, which platform devices are named by.
const ADDRESS: &str = "fdab0000.";

const DEVICES: &str = "/sys/bus/platform/devices";
const MODULE: &str = "/sys/module/rknpu";
const DEBUG: &str = "/sys/kernel/debug/rknpu";
const DRIVERS: &str = "/sys/bus/platform/drivers/RKNPU";

/// Advice to those without the vendor's driver.
const INSTALL: &str = "boot the vendor's kernel: on Armbian `sudo apt install linux-image-vendor-rk35xx \
                       linux-dtb-vendor-rk35xx`, elsewhere the board maker's image; then reboot";

/// Advice to those with an old driver.
const UPDATE: &str = "sudo apt update && sudo apt full-upgrade && sudo reboot   # the driver is part of the \
                      vendor's kernel";

/// What drives the NPU.
#[derive(Clone, Debug)]
pub struct Driver {
    /// Folder of the NPU's platform device.
    device: Option<String>,
    /// Name of the driver that has it.
    bound: Option<String>,
    /// Whether the module `rocket` is loaded, or has a device.
    rocket: bool,
    /// Version of the vendor's driver, and where it says so.
    version: Result<(Version, String), (String, Unread)>,
}

impl Driver {
    /// Looks which driver has the NPU.
    pub fn find(system: &System) -> Self {
        let names = system.list(DEVICES).unwrap_or_default();
        let npu = names.into_iter().find(|name| name.starts_with(ADDRESS)).or_else(|| {
            let bound = system.list(DRIVERS).unwrap_or_default();
            bound.into_iter().find(|name| system.exists(format!("{DEVICES}/{name}")))
        });
        let device = npu.map(|name| format!("{DEVICES}/{name}"));
        let bound = device.as_ref().and_then(|device| system.end(format!("{device}/driver")));
        let accel = "/sys/class/accel";
        let accelerators = system.numbered(accel, "accel");
        let rocket = system.exists("/sys/module/rocket")
            || accelerators.iter().any(|name| {
                let driver = system.end(format!("{accel}/{name}/device/driver"));
                driver.is_some_and(|driver| driver == "rocket")
            });
        Driver { device, bound, rocket, version: version(system) }
    }

    /// Whether the vendor's driver has the NPU.
    pub fn is_vendors(&self) -> bool {
        self.bound.as_ref().is_some_and(|name| name.eq_ignore_ascii_case("rknpu"))
    }

    /// Version of the vendor's driver, where it is known.
    pub fn version(&self) -> Option<Version> {
        self.version.as_ref().ok().map(|(version, _)| *version)
    }

    /// What is to be said of the driver; of the NPU behind it only if it is the vendor's.
    pub fn findings(&self, system: &System) -> Vec<Finding> {
        let mut findings = vec![self.vendor(system), self.mainline()];
        if self.is_vendors() {
            findings.extend([
                self.version_finding(system),
                parameters(system),
                self.cores(system),
                self.iommu(system),
                self.domains(),
                sram(system),
                load(system),
            ]);
        }
        findings
    }

    fn vendor(&self, system: &System) -> Finding {
        match (&self.bound, &self.device) {
            (Some(name), _) if self.is_vendors() => VENDOR.ok(format!("{name} has the NPU")),
            (Some(name), _) => VENDOR.error(format!("the NPU's driver is {name}"), INSTALL),
            (None, Some(device)) if system.exists(MODULE) => VENDOR.error(
                format!("rknpu is loaded, but did not take {device}"),
                "sudo dmesg | grep -i rknpu   # says why; often a device tree of another kernel",
            ),
            (None, Some(_)) => VENDOR.error("no driver has the NPU", INSTALL),
            (None, None) => VENDOR.error("the kernel knows no NPU", INSTALL),
        }
    }

    fn mainline(&self) -> Finding {
        const BLACKLIST: &str =
            "echo 'blacklist rocket' | sudo tee /etc/modprobe.d/rocket.conf && sudo reboot";
        match (self.rocket, self.is_vendors()) {
            (false, _) => MAINLINE.ok("absent"),
            (true, true) => MAINLINE.warning("rocket is loaded, too", BLACKLIST),
            (true, false) => MAINLINE
                .error("rocket has the NPU", format!("{BLACKLIST}   # with the vendor's kernel")),
        }
    }

    fn version_finding(&self, system: &System) -> Finding {
        match &self.version {
            Ok((version, path)) => {
                let value = format!("{version} ({path})");
                match *version {
                    version if version < OLDEST => VERSION.error(value, UPDATE),
                    version if version < RECOMMENDED => VERSION.warning(value, UPDATE),
                    _ => VERSION.ok(value),
                }
            }
            Err((path, unread)) => unread_of(system, &VERSION, path, unread),
        }
    }

    /// Counts cores by what the driver says of them, or else by their interrupts in the device tree.
    fn cores(&self, system: &System) -> Finding {
        let named = || {
            let names = self.device.as_ref()?;
            let names = system.strings(format!("{names}/of_node/interrupt-names")).ok()?;
            Some(names.iter().filter(|name| name.starts_with("npu")).count())
        };
        let count = match (loads(system), named()) {
            (Ok(loads), _) => loads.len(),
            (Err(_), Some(count)) if count > 0 => count,
            (Err((path, unread)), _) => return unread_of(system, &CORES, &path, &unread),
        };
        match count >= CORE_COUNT {
            true => CORES.ok(count.to_string()),
            false => CORES.warning(
                format!("{count} of {CORE_COUNT}"),
                "install the device tree that belongs to the kernel (`rknpu` has three cores in it), and \
                 reboot",
            ),
        }
    }

    fn iommu(&self, system: &System) -> Finding {
        let group = self.device.as_ref().map(|device| format!("{device}/iommu_group"));
        match group {
            Some(group) if system.exists(&group) => IOMMU.ok("on"),
            _ => IOMMU.warning(
                "off: the NPU is in no IOMMU group",
                "set `status = \"okay\"` for iommu@fdab9000 (`rknpu_mmu`) in the device tree, and reboot",
            ),
        }
    }

    fn domains(&self) -> Finding {
        match self.version() {
            Some(version) if version >= RECOMMENDED => DOMAINS.ok("16 of 4 GiB"),
            Some(version) => DOMAINS
                .info(format!("driver {version} may have only one: 4 GiB for all tiles"))
                .with_fix(UPDATE),
            None => DOMAINS.info("not checked: the driver's version is not known"),
        }
    }
}

/// Version of the vendor's driver, from the first place that tells.
fn version(system: &System) -> Result<(Version, String), (String, Unread)> {
    let mut failure = None;
    for path in [&format!("{MODULE}/version"), "/proc/rknpu/version", &format!("{DEBUG}/version")] {
        let found =
            system.line(path).and_then(|line| Version::find(&line).ok_or(Unread::Strange(line)));
        match found {
            Ok(version) => return Ok((version, path.to_owned())),
            Err(unread) => match failure {
                // What is there, and cannot be read, tells more than what is not there.
                Some((_, Unread::Missing)) | None => failure = Some((path.to_owned(), unread)),
                Some(_) => {}
            },
        }
    }
    Err(failure.unwrap_or_else(|| (MODULE.to_owned(), Unread::Missing)))
}

/// A file of debugfs that cannot be read; where none is there, debugfs is not mounted.
fn unread_of(system: &System, check: &Check, path: &str, unread: &Unread) -> Finding {
    let finding = check.unread(path, unread);
    let mounted = !matches!(system.list("/sys/kernel/debug"), Ok(names) if names.is_empty());
    match (unread, mounted) {
        (Unread::Missing, false) => {
            finding.with_fix("sudo mount -t debugfs none /sys/kernel/debug && sudo tessera doctor")
        }
        _ => finding,
    }
}

fn parameters(system: &System) -> Finding {
    let mut wrong = Vec::new();
    let mut values = Vec::new();
    for name in ["bypass_irq_handler", "bypass_soft_reset"] {
        let path = format!("{MODULE}/parameters/{name}");
        match system.number::<i64>(&path) {
            Ok(value) => {
                values.push(format!("{name} {value}"));
                if value != 0 {
                    wrong.push(path);
                }
            }
            Err(Unread::Missing) => {}
            Err(unread) => return PARAMETERS.unread(&path, &unread),
        }
    }
    match (values.is_empty(), wrong.is_empty()) {
        (true, _) => PARAMETERS.info("not checked: the driver shows none"),
        (false, true) => PARAMETERS.ok(values.join(", ")),
        (false, false) => {
            PARAMETERS.warning(values.join(", "), format!("echo 0 | sudo tee {}", wrong.join(" ")))
        }
    }
}

/// What the driver says of each core's load: pairs such as `Core0: 12%`.
pub fn loads(system: &System) -> Result<Vec<u64>, (String, Unread)> {
    let mut failure = None;
    for path in [format!("{DEBUG}/load"), "/proc/rknpu/load".to_owned()] {
        match system.line(&path) {
            Ok(line) => {
                let percents = line.split('%').filter_map(|part| part.rsplit([' ', ':']).next());
                let loads: Vec<_> = percents.filter_map(|number| number.parse().ok()).collect();
                if loads.is_empty() {
                    return Err((path, Unread::Strange(line)));
                }
                return Ok(loads);
            }
            Err(unread) => failure = failure.or(Some((path, unread))),
        }
    }
    Err(failure.unwrap_or_else(|| (DEBUG.to_owned(), Unread::Missing)))
}

fn load(system: &System) -> Finding {
    match loads(system) {
        Ok(loads) => {
            let shown: Vec<_> = loads.iter().map(|load| format!("{load} %")).collect();
            match loads.iter().all(|&load| load == 0) {
                true => LOAD.ok(shown.join(", ")),
                false => LOAD.warning(
                    shown.join(", "),
                    "sudo tessera doctor   # `clients` names the processes; end them, and look again",
                ),
            }
        }
        Err((path, unread)) => unread_of(system, &LOAD, &path, &unread),
    }
}

/// Counts the driver's map of its SRAM: `*` is used, `.` free, each so many KiB.
fn sram(system: &System) -> Finding {
    let path = format!("{DEBUG}/mm");
    let text = match system.text(&path) {
        Ok(text) => text,
        Err(unread) => return unread_of(system, &SRAM, &path, &unread),
    };
    let unit = text.split_once("1bit = ").and_then(|(_, rest)| rest.split_once("KB"));
    let Some(unit) = unit.and_then(|(unit, _)| unit.parse::<usize>().ok()) else {
        return SRAM.ok("none given to the NPU");
    };
    let lines = text.lines().filter(|line| line.starts_with('['));
    let count = |wanted| lines.clone().flat_map(str::chars).filter(|&c| c == wanted).count();
    let (used, free) = (count('*').saturating_mul(unit), count('.').saturating_mul(unit));
    SRAM.ok(format!("{free} KiB free of {} KiB", used.saturating_add(free)))
}
