//! Trees of files as `/sys`, `/proc` and the rest show them on a board, and on a laptop.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// `e_machine` of 64-bit ARM.
pub const AARCH64: u8 = 183;

/// `e_machine` of x86-64.
pub const X86_64: u8 = 62;

/// The NPU's device.
const NPU: &str = "/sys/devices/platform/fdab0000.npu";

/// Its node in the device tree.
const NODE: &str = "npu@fdab0000";

/// A planted root folder. Paths are absolute ones of it.
pub struct Planted {
    folder: TempDir,
}

impl Planted {
    /// A folder with nothing in it.
    pub fn empty() -> Self {
        Planted { folder: tempfile::tempdir().unwrap() }
    }

    /// The root folder.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Where a path is on this machine.
    pub fn place(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// Writes a file, and the folders above it.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        self.folder_of(path);
        fs::write(self.place(path), content).unwrap();
        self
    }

    /// Makes a link, in place of what is there.
    pub fn link(&self, path: &str, target: &str) -> &Self {
        self.folder_of(path);
        let _ = fs::remove_file(self.place(path));
        symlink(target, self.place(path)).unwrap();
        self
    }

    /// Removes a file, a link or a folder.
    pub fn remove(&self, path: &str) -> &Self {
        let place = self.place(path);
        match fs::symlink_metadata(&place).unwrap().is_dir() {
            true => fs::remove_dir_all(place).unwrap(),
            false => fs::remove_file(place).unwrap(),
        }
        self
    }

    /// Changes the mode of a file.
    pub fn mode(&self, path: &str, mode: u32) -> &Self {
        fs::set_permissions(self.place(path), Permissions::from_mode(mode)).unwrap();
        self
    }

    /// Makes a file longer, with a hole.
    pub fn stretch(&self, path: &str, bytes: u64) -> &Self {
        let file = File::options().append(true).create(true).open(self.place(path)).unwrap();
        file.set_len(bytes).unwrap();
        self
    }

    /// Replaces a piece of a file's text, which must be in it.
    pub fn replace(&self, path: &str, old: &str, new: &str) -> &Self {
        let text = fs::read_to_string(self.place(path)).unwrap();
        assert!(text.contains(old), "{path}: {text}");
        self.write(path, text.replace(old, new))
    }

    fn folder_of(&self, path: &str) {
        fs::create_dir_all(self.place(path).parent().unwrap()).unwrap();
    }

    /// A board with everything in order and fixed clocks, to a user in the group `render`.
    pub fn rk3588() -> Self {
        let planted = Planted::empty();
        planted.device_tree().npu().library("/usr/lib/librknnrt.so", AARCH64, "2.3.2");
        planted
            .link("/lib", "usr/lib")
            .link("/usr/lib/librknn_api.so", "librknnrt.so")
            .write("/etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n")
            .write("/etc/ld.so.conf.d/libc.conf", "# libc default configuration\n/usr/local/lib\n");
        planted.processes().clocks().temperatures();
        planted
    }

    fn device_tree(&self) -> &Self {
        let base = "/sys/firmware/devicetree/base";
        self.link("/proc/device-tree", base)
            .write(&format!("{base}/compatible"), "xunlong,orangepi-5-plus\0rockchip,rk3588\0")
            .write(&format!("{base}/model"), "Orange Pi 5 Plus\0")
            .write(&format!("{base}/{NODE}/status"), "okay\0")
            .write("/proc/sys/kernel/osrelease", "6.1.115-vendor-rk35xx\n")
    }

    /// The NPU with the vendor's driver, beside a GPU that has the lower numbers.
    fn npu(&self) -> &Self {
        for (device, driver, card, render) in [
            ("fb000000.gpu", "panthor", "card0", "renderD128"),
            ("fdab0000.npu", "RKNPU", "card1", "renderD129"),
        ] {
            let folder = format!("/sys/devices/platform/{device}");
            self.write(&format!("/sys/bus/platform/drivers/{driver}/uevent"), "")
                .link(
                    &format!("{folder}/driver"),
                    &format!("../../../bus/platform/drivers/{driver}"),
                )
                .link(
                    &format!("/sys/bus/platform/devices/{device}"),
                    &format!("../../../devices/platform/{device}"),
                );
            for node in [card, render] {
                self.link(&format!("{folder}/drm/{node}/device"), &format!("../../../{device}"))
                    .link(
                        &format!("/sys/class/drm/{node}"),
                        &format!("../../devices/platform/{device}/drm/{node}"),
                    )
                    .write(&format!("/dev/dri/{node}"), "")
                    .mode(&format!("/dev/dri/{node}"), 0o660);
            }
        }
        self.write("/sys/kernel/iommu_groups/0/type", "DMA\n")
            .link(
                &format!("{NPU}/iommu_group"),
                "../../../kernel/iommu_groups/0",
            )
            .link(&format!("{NPU}/of_node"), &format!("../../../firmware/devicetree/base/{NODE}"))
            .write(
                &format!("/sys/firmware/devicetree/base/{NODE}/interrupt-names"),
                "npu0_irq\0npu1_irq\0npu2_irq\0",
            )
            .write("/sys/module/rknpu/version", "0.9.8\n")
            .write("/sys/module/rknpu/parameters/bypass_irq_handler", "0\n")
            .write("/sys/module/rknpu/parameters/bypass_soft_reset", "0\n")
            .write("/sys/kernel/debug/rknpu/version", "RKNPU driver: v0.9.8\n")
            .write(
                "/sys/kernel/debug/rknpu/load",
                "NPU load:  Core0:  0%, Core1:  0%, Core2:  0%,\n",
            )
            .write(
                "/sys/kernel/debug/rknpu/mm",
                "SRAM bitmap: \"*\" - used, \".\" - free (1bit = 4KB)\n\
                 [000] [................................]\n[001] [...............................*]\n",
            )
    }

    /// A library for `machine` with a version in it.
    pub fn library(&self, path: &str, machine: u8, version: &str) -> &Self {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
        bytes.resize(18, 0);
        bytes.extend([machine, 0]);
        bytes.resize(65_000, 0x90);
        bytes.extend(b"\0I RKNN: librknnrt version: %s\0");
        bytes.resize(65_526, 0x90);
        bytes.extend(
            format!("librknnrt version: {version} (429f97ae6b@2025-04-09T09:09:27)\0").bytes(),
        );
        bytes.resize(80_000, 0);
        self.write(path, bytes)
    }

    /// This process, which is of the group of the planted nodes, and another.
    fn processes(&self) -> &Self {
        let gid = fs::metadata(self.place("/dev/dri/renderD129")).unwrap().gid();
        self.write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
            .write("/etc/group", format!("root:x:0:\nrender:x:{gid}:alice\n"))
            .link("/proc/self", "4242")
            .write("/proc/4242/comm", "tessera\n")
            .link("/proc/4242/fd/0", "/dev/pts/0")
            .write(
                "/proc/4242/status",
                format!(
                    "Name:\ttessera\nUid:\t54321\t54321\t54321\t54321\nGid:\t54321\t54321\t54321\t54321\n\
                     Groups:\t4 {gid} 54321 \nCapEff:\t0000000000000000\n"
                ),
            )
            .write(
                "/proc/4242/limits",
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max processes             63114                63114                processes \n\
                 Max open files            65536                1048576              files     \n",
            )
            .write("/proc/1/comm", "systemd\n")
            .link("/proc/1/fd/0", "/dev/null")
            .write("/proc/sys/fs/file-nr", "3200\t0\t9223372036854775807\n")
            .write("/proc/sys/fs/nr_open", "1048576\n")
            .write(
                "/proc/meminfo",
                "MemTotal:       16226508 kB\nMemFree:         9226508 kB\nMemAvailable:   14000000 kB\n\
                 SwapTotal:       8113252 kB\nSwapFree:        8113252 kB\n\
                 CmaTotal:         262144 kB\nCmaFree:          200000 kB\n",
            )
    }

    fn clocks(&self) -> &Self {
        for (device, top, available) in [
            ("fdab0000.npu", 1_000_000_000, "300000000 400000000 600000000 900000000 1000000000"),
            ("dmc", 2_112_000_000_u64, "528000000 1068000000 1560000000 2112000000"),
            ("fb000000.gpu", 1_000_000_000, "300000000 1000000000"),
        ] {
            let folder = format!("/sys/class/devfreq/{device}");
            self.write(&format!("{folder}/governor"), "performance\n")
                .write(&format!("{folder}/cur_freq"), format!("{top}\n"))
                .write(&format!("{folder}/max_freq"), format!("{top}\n"))
                .write(&format!("{folder}/available_frequencies"), format!("{available}\n"));
        }
        for (policy, top) in [(0, 1_800_000), (4, 2_352_000), (6, 2_352_000)] {
            let folder = format!("/sys/devices/system/cpu/cpufreq/policy{policy}");
            self.write(&format!("{folder}/scaling_governor"), "performance\n");
            for file in ["scaling_cur_freq", "scaling_max_freq", "cpuinfo_max_freq"] {
                self.write(&format!("{folder}/{file}"), format!("{top}\n"));
            }
        }
        for cpu in 0..8 {
            self.write(&format!("/sys/devices/system/cpu/cpu{cpu}/cpuidle/state1/disable"), "1\n");
        }
        self
    }

    fn temperatures(&self) -> &Self {
        for (zone, kind) in [(0, "soc-thermal"), (1, "bigcore0-thermal"), (6, "npu-thermal")] {
            let folder = format!("/sys/class/thermal/thermal_zone{zone}");
            self.write(&format!("{folder}/type"), format!("{kind}\n"))
                .write(&format!("{folder}/temp"), "43461\n");
        }
        for (trip, kind, at) in
            [(0, "passive", 75_000), (1, "passive", 85_000), (2, "critical", 115_000)]
        {
            let folder = "/sys/class/thermal/thermal_zone0";
            self.write(&format!("{folder}/trip_point_{trip}_type"), format!("{kind}\n"))
                .write(&format!("{folder}/trip_point_{trip}_temp"), format!("{at}\n"));
        }
        self
    }

    /// A laptop.
    pub fn laptop() -> Self {
        let planted = Planted::empty();
        planted
            .write("/sys/class/dmi/id/product_name", "ThinkPad X1 Carbon\n")
            .write("/proc/sys/kernel/osrelease", "6.12.9-generic\n")
            .write("/proc/meminfo", "MemTotal:  300000 kB\nMemAvailable:  200000 kB\n")
            .write("/sys/class/thermal/thermal_zone0/type", "x86_pkg_temp\n")
            .write("/sys/class/thermal/thermal_zone0/temp", "99000\n")
            .write("/proc/1/comm", "systemd\n");
        planted
    }
}
