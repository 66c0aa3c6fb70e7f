//! Which machine it is: the chip, its kernel, and the NPU in its device tree.

use super::finding::{Check, Finding};
use super::system::{System, Unread};
use tessera_runtime::rknn::Version;

/// The chip.
pub const SOC: Check =
    Check { id: "soc", title: "SoC", why: "packs run on the NPU of the RK3588 and RK3588S" };

/// The kernel.
pub const KERNEL: Check = Check {
    id: "kernel",
    title: "kernel",
    why: "the vendor's NPU driver comes with the vendor's kernels, 5.10 and 6.1",
};

/// Whether the NPU is enabled.
pub const ENABLED: Check = Check {
    id: "npu.enabled",
    title: "NPU in the device tree",
    why: "no driver can use an NPU that the device tree disables",
};

/// What identifies the chip in the device tree.
const COMPATIBLE: &str = "/proc/device-tree/compatible";

/// Version of the running kernel.
const RELEASE: &str = "/proc/sys/kernel/osrelease";

/// Names of the chips with this NPU, in the device tree.
const CHIPS: [&str; 2] = ["rockchip,rk3588", "rockchip,rk3588s"];

/// Nodes of the NPU's first core: the vendor's name, and one that is used for its driver on other kernels.
const NODES: [&str; 4] = [
    "/proc/device-tree/npu@fdab0000",
    "/proc/device-tree/rknpu@fdab0000",
    "/proc/device-tree/soc/npu@fdab0000",
    "/proc/device-tree/soc/rknpu@fdab0000",
];

/// A machine.
#[derive(Clone, Debug)]
pub struct Board {
    /// Its name, such as `Orange Pi 5 Plus`.
    pub name: Option<String>,
    /// What its device tree says it is, the most exact first.
    pub compatible: Result<Vec<String>, Unread>,
    /// Version of its kernel.
    pub kernel: Result<String, Unread>,
}

impl Board {
    /// Reads what machine it is.
    pub fn read(system: &System) -> Self {
        let name = ["/proc/device-tree/model", "/sys/class/dmi/id/product_name"]
            .iter()
            .filter_map(|path| system.line(path).ok())
            .find(|name| !name.is_empty());
        Board { name, compatible: system.strings(COMPATIBLE), kernel: system.line(RELEASE) }
    }

    /// The chip, if it has this NPU.
    pub fn chip(&self) -> Option<&str> {
        let compatible = self.compatible.as_ref().ok()?;
        compatible.iter().map(String::as_str).find(|name| CHIPS.contains(name))
    }

    /// What is to be said of the chip.
    pub fn soc(&self) -> Finding {
        if let Some(chip) = self.chip() {
            return SOC.ok(chip);
        }
        let found = match &self.compatible {
            Ok(names) if !names.is_empty() => names.join(", "),
            Ok(_) | Err(Unread::Missing) => match &self.name {
                Some(name) => format!("{name}, without a device tree"),
                None => "a machine without a device tree".to_owned(),
            },
            Err(unread) => return SOC.unread(COMPATIBLE, unread),
        };
        SOC.info(format!("this is no RK3588 board (found {found})")).with_fix(
            "run `tessera doctor` on the board; everything but the NPU itself works on any machine",
        )
    }

    /// What is to be said of the kernel.
    pub fn kernel(&self) -> Finding {
        match &self.kernel {
            Ok(release) if is_vendors(release) => KERNEL.ok(release.as_str()),
            Ok(release) => KERNEL.info(format!("{release}: not of the vendor's 5.10 or 6.1")),
            Err(unread) => KERNEL.unread(RELEASE, unread),
        }
    }
}

fn is_vendors(release: &str) -> bool {
    matches!(Version::parse(release), Some(Version(5, 10, _) | Version(6, 1, _)))
}

/// Whether the device tree enables the NPU.
pub fn enabled(system: &System) -> Finding {
    let Some(node) = NODES.iter().find(|node| system.exists(node)) else {
        return ENABLED.info("not checked: the device tree has no NPU at fdab0000");
    };
    let path = format!("{node}/status");
    match system.line(&path) {
        // A node without a status is enabled (Devicetree Specification 0.4, 2.3.4).
        Err(Unread::Missing) => ENABLED.ok("enabled"),
        Ok(status) if matches!(status.as_str(), "okay" | "ok") => ENABLED.ok("enabled"),
        Ok(status) => ENABLED.error(
            format!("{path} says `{status}`"),
            "enable the NPU with an overlay (`sudo armbian-config` or `sudo rsetup`), or install the device \
             tree that belongs to the vendor's kernel, and reboot",
        ),
        Err(unread) => ENABLED.unread(&path, &unread),
    }
}
