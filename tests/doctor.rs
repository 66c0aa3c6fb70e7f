//! `tessera doctor` on planted trees: what it finds, why, how to fix it, and its exit code.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and may talk")]

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use harness::board::{AARCH64, Planted, X86_64};
use harness::tessera;
use serde_json::Value;

const NPU: &str = "/sys/devices/platform/fdab0000.npu";
const DEVFREQ: &str = "/sys/class/devfreq/fdab0000.npu";
const LIBRARY: &str = "/usr/lib/librknnrt.so";
const RENDER: &str = "/dev/dri/renderD129";

/// Examines a tree; the exit code must agree with the report, and text and JSON with each other.
fn examine(planted: &Planted) -> (Value, String) {
    let run = |json: bool| {
        let mut command = tessera();
        command.arg("doctor").arg("--root").arg(planted.root()).env("LD_LIBRARY_PATH", "/nowhere");
        if json {
            command.arg("--json");
        }
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, json) = run(true);
    let (text_code, text) = run(false);
    let report: Value = serde_json::from_str(&json).unwrap();
    let wrong = ["warning", "error"].contains(&report["verdict"].as_str().unwrap());
    assert_eq!((code, text_code), (i32::from(wrong), i32::from(wrong)), "{text}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    for finding in findings(&report) {
        let field = |name: &str| finding[name].as_str().unwrap().to_owned();
        let (severity, title) = (field("severity"), field("title"));
        assert!(!field("why").is_empty() && !field("value").is_empty());
        let line = if severity == "ok" { title } else { format!("{severity}: {title}: ") };
        assert!(text.contains(&line), "{line}: {text}");
        if wrong && ["warning", "error"].contains(&severity.as_str()) {
            let fix = field("fix");
            assert!(text.contains(&format!("  fix: {fix}\n")), "{fix}: {text}");
        }
    }
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/doctor.md"));
    let page = page.unwrap();
    let skipped = report["not_applicable"].as_array().unwrap().iter();
    for id in findings(&report).iter().map(|finding| &finding["id"]).chain(skipped) {
        assert!(page.contains(&format!("`{}`", id.as_str().unwrap())), "{id} is not on the page");
    }
    (report, text)
}

fn findings(report: &Value) -> &Vec<Value> {
    report["findings"].as_array().unwrap()
}

fn finding<'a>(report: &'a Value, id: &str) -> &'a Value {
    findings(report).iter().find(|finding| finding["id"] == id).unwrap()
}

/// What is not in order: `ID SEVERITY`.
fn complaints(report: &Value) -> BTreeSet<String> {
    let complaints = findings(report).iter().filter(|finding| finding["severity"] != "ok");
    let shown = |finding: &Value| {
        format!("{} {}", finding["id"].as_str().unwrap(), finding["severity"].as_str().unwrap())
    };
    complaints.map(shown).collect()
}

/// Checks that a tree has these complaints and no others.
fn complains(name: &str, planted: &Planted, expected: &[&str]) -> (Value, String) {
    let (report, text) = examine(planted);
    let expected: BTreeSet<_> = expected.iter().map(ToString::to_string).collect();
    assert_eq!(complaints(&report), expected, "{name}: {text}");
    (report, text)
}

#[test]
fn a_healthy_board_is_in_order() {
    let (report, text) = complains("healthy", &Planted::rk3588(), &[]);
    assert_eq!(report["verdict"], "ok");
    assert_eq!(report["board"], true);
    assert_eq!(report["machine"], "Orange Pi 5 Plus");
    assert_eq!(report["not_applicable"], serde_json::json!(["nodes.heaps"]));
    for (id, value) in [
        ("soc", "rockchip,rk3588"),
        ("kernel", "6.1.115-vendor-rk35xx"),
        ("driver.version", "0.9.8 (/sys/module/rknpu/version)"),
        ("npu.cores", "3"),
        ("npu.domains", "16 of 4 GiB"),
        ("npu.sram", "252 KiB free of 256 KiB"),
        ("nodes.render", RENDER),
        ("library.found", LIBRARY),
        ("library.machine", "64-bit ARM"),
        ("library.version", "2.3.2"),
        ("library.driver", "librknnrt 2.3.2 with driver 0.9.8"),
        ("clients", "none"),
        ("limits.files", "65536"),
        ("clocks.npu", "1000 of 1000 MHz, governor performance"),
        ("clocks.ddr", "2112 of 2112 MHz, governor performance"),
        ("thermal", "43.4 °C (soc-thermal)"),
    ] {
        assert_eq!(finding(&report, id)["value"], value, "{id}");
    }
    assert!(text.starts_with("Orange Pi 5 Plus\n\n in order"), "{text}");
    assert!(
        text.ends_with(
            "\n0 errors, 0 warnings, 0 for information, 33 in order, 1 not applicable\n"
        )
    );
}

/// What is wrong in a tree, how it is planted, and what is to be found.
type Case = (&'static str, Plant, &'static [&'static str]);

/// A change to a tree.
type Plant = fn(&Planted) -> &Planted;

/// Trees that differ from the healthy one in one thing.
const CASES: [Case; 33] = [
    (
        "no driver",
        |p| p.remove(&format!("{NPU}/driver")).remove("/sys/module/rknpu"),
        &["driver.vendor error"],
    ),
    (
        "driver loaded, but refused the device",
        |p| p.remove(&format!("{NPU}/driver")),
        &["driver.vendor error"],
    ),
    (
        "mainline driver",
        |p| {
            p.link(&format!("{NPU}/driver"), "../../../bus/platform/drivers/rocket")
                .write("/sys/bus/platform/drivers/rocket/uevent", "")
                .link("/sys/class/accel/accel0/device", NPU)
                .remove("/sys/module/rknpu")
                .write("/proc/sys/kernel/osrelease", "6.18.2-edge-rockchip64\n")
        },
        &["driver.vendor error", "driver.mainline error", "kernel info"],
    ),
    (
        "NPU disabled in the device tree",
        |p| {
            p.write("/sys/firmware/devicetree/base/npu@fdab0000/status", "disabled\0")
                .remove("/sys/bus/platform/devices/fdab0000.npu")
        },
        &["npu.enabled error", "driver.vendor error"],
    ),
    (
        "driver 0.9.2",
        |p| p.write("/sys/module/rknpu/version", "0.9.2\n"),
        &["driver.version error", "npu.domains info", "library.driver warning"],
    ),
    (
        "driver 0.9.6",
        |p| p.write("/sys/module/rknpu/version", "0.9.6\n"),
        &["driver.version warning", "npu.domains info", "library.driver warning"],
    ),
    (
        "interrupts bypassed",
        |p| p.write("/sys/module/rknpu/parameters/bypass_irq_handler", "1\n"),
        &["driver.parameters warning"],
    ),
    ("IOMMU off", |p| p.remove(&format!("{NPU}/iommu_group")), &["npu.iommu warning"]),
    (
        "two cores",
        |p| p.write("/sys/kernel/debug/rknpu/load", "NPU load:  Core0:  0%, Core1:  0%,\n"),
        &["npu.cores warning"],
    ),
    (
        "NPU at work",
        |p| p.replace("/sys/kernel/debug/rknpu/load", "Core1:  0%", "Core1: 73%"),
        &["npu.load warning"],
    ),
    ("node for root only", |p| p.mode(RENDER, 0o600), &["nodes.permission error"]),
    (
        "user not in the group",
        |p| {
            let status =
                "Uid:\t54321\t54321\t54321\t54321\nGid:\t54321\t54321\t54321\t54321\nGroups:\t4\n";
            p.write("/proc/4242/status", status)
        },
        &["nodes.permission error"],
    ),
    ("container without the node", |p| p.remove("/dev/dri"), &["nodes.render error"]),
    ("driver without a node", |p| p.remove(&format!("{NPU}/drm")), &["nodes.render error"]),
    ("no library", |p| p.remove("/usr/lib"), &["library.found error"]),
    (
        "dangling link",
        |p| p.link(LIBRARY, "/opt/rknn/librknnrt.so"),
        &["library.found error", "library.api warning"],
    ),
    (
        "link to itself",
        |p| p.link(LIBRARY, "librknnrt.so"),
        &["library.found error", "library.api warning"],
    ),
    ("library for x86-64", |p| p.library(LIBRARY, X86_64, "2.3.2"), &["library.machine error"]),
    (
        "a page instead of the library",
        |p| p.write(LIBRARY, "<!DOCTYPE html><title>404: not the file</title>"),
        &["library.machine error"],
    ),
    ("librknnrt 1.6.0", |p| p.library(LIBRARY, AARCH64, "1.6.0"), &["library.version error"]),
    (
        "two versions",
        |p| p.library("/usr/local/lib/librknnrt.so", AARCH64, "2.0.0b0"),
        &["library.copies warning"],
    ),
    (
        "librknn_api of its own",
        |p| {
            p.remove("/usr/lib/librknn_api.so").library("/usr/lib/librknn_api.so", AARCH64, "1.4.0")
        },
        &["library.api warning"],
    ),
    (
        "another process",
        |p| p.write("/proc/977/comm", "llama-server\n").link("/proc/977/fd/11", RENDER),
        &["clients warning"],
    ),
    (
        "few open files",
        |p| p.replace("/proc/4242/limits", "65536  ", "1024   "),
        &["limits.files warning"],
    ),
    (
        "few open files in all",
        |p| p.write("/proc/sys/fs/file-nr", "61000\t0\t65536\n"),
        &["limits.system_files warning"],
    ),
    (
        "little memory",
        |p| p.replace("/proc/meminfo", "14000000", "400000"),
        &["memory.available warning"],
    ),
    (
        "NPU saves power",
        |p| {
            p.write(&format!("{DEVFREQ}/governor"), "powersave\n")
                .write(&format!("{DEVFREQ}/cur_freq"), "300000000\n")
        },
        &["clocks.npu warning"],
    ),
    (
        "NPU capped",
        |p| {
            p.write(&format!("{DEVFREQ}/max_freq"), "600000000\n")
                .write(&format!("{DEVFREQ}/cur_freq"), "600000000\n")
        },
        &["clocks.npu warning"],
    ),
    (
        "CPU capped",
        |p| {
            let policy = "/sys/devices/system/cpu/cpufreq/policy4";
            p.write(&format!("{policy}/scaling_max_freq"), "1200000\n")
                .write(&format!("{policy}/scaling_cur_freq"), "1200000\n")
        },
        &["clocks.cpu warning"],
    ),
    (
        "DDR slow",
        |p| {
            p.write("/sys/class/devfreq/dmc/governor", "userspace\n")
                .write("/sys/class/devfreq/dmc/cur_freq", "528000000\n")
        },
        &["clocks.ddr warning"],
    ),
    ("warm", |p| p.write("/sys/class/thermal/thermal_zone6/temp", "84000\n"), &["thermal warning"]),
    ("hot", |p| p.write("/sys/class/thermal/thermal_zone6/temp", "96000\n"), &["thermal error"]),
    (
        "above a low critical point",
        |p| {
            p.write("/sys/class/thermal/thermal_zone6/temp", "71000\n")
                .write("/sys/class/thermal/thermal_zone6/trip_point_0_type", "critical\n")
                .write("/sys/class/thermal/thermal_zone6/trip_point_0_temp", "70000\n")
        },
        &["thermal error"],
    ),
];

#[test]
fn what_is_wrong_is_found_and_nothing_else() {
    for (name, plant, expected) in CASES {
        let planted = Planted::rk3588();
        plant(&planted);
        complains(name, &planted, expected);
    }
}

#[test]
fn what_is_normal_is_no_reason_to_fail() {
    let planted = Planted::rk3588();
    // As a board starts: governors that follow the work, debugfs for root only, a display server.
    for device in ["fdab0000.npu", "dmc"] {
        let folder = format!("/sys/class/devfreq/{device}");
        planted
            .write(&format!("{folder}/governor"), "rknpu_ondemand\n")
            .write(&format!("{folder}/cur_freq"), "300000000\n");
    }
    for policy in [0, 4, 6] {
        let folder = format!("/sys/devices/system/cpu/cpufreq/policy{policy}");
        planted.write(&format!("{folder}/scaling_governor"), "ondemand\n");
    }
    planted
        .write("/sys/devices/system/cpu/cpu3/cpuidle/state1/disable", "0\n")
        .remove("/sys/kernel/debug")
        .write("/proc/600/comm", "Xorg\n")
        .link("/proc/600/fd/9", "/dev/dri/card1");
    let expected = [
        "clients info",
        "clocks.cpu info",
        "clocks.ddr info",
        "clocks.idle info",
        "clocks.npu info",
        "npu.load info",
        "npu.sram info",
    ];
    let (report, text) = complains("stock", &planted, &expected);
    assert_eq!(report["verdict"], "info");
    assert_eq!(finding(&report, "clients")["details"], serde_json::json!(["600 Xorg"]));
    let fix =
        format!("  fix: echo performance | sudo tee {DEVFREQ}/governor   # before measuring\n");
    assert!(text.contains(&fix), "{text}");
}

#[test]
fn the_page_shows_what_is_printed() {
    let planted = Planted::rk3588();
    planted
        .link(LIBRARY, "/opt/rknn/librknnrt.so")
        .remove("/usr/lib/librknn_api.so")
        .replace("/proc/4242/limits", "65536  ", "1024   ")
        .write(&format!("{DEVFREQ}/governor"), "rknpu_ondemand\n")
        .write(&format!("{DEVFREQ}/cur_freq"), "300000000\n");
    let (_, text) = examine(&planted);
    let (shown, _) = text.split_once(" in order\n").unwrap();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/doctor.md"));
    assert!(page.unwrap().contains(&format!("```text\n{shown}…\n```\n")), "{shown}");
}

#[test]
fn what_is_for_root_is_told() {
    let planted = Planted::rk3588();
    let closed = ["/sys/kernel/debug", "/proc/1/fd"];
    for path in closed {
        planted.mode(path, 0);
    }
    if fs::read_dir(planted.place(closed[0])).is_ok() {
        println!("skipped: this user may read everything");
        return;
    }
    let expected = ["npu.load info", "npu.sram info", "clients info"];
    let (report, _) = complains("closed folders", &planted, &expected);
    for path in closed {
        planted.mode(path, 0o700);
    }
    for id in ["npu.load", "npu.sram", "clients"] {
        assert_eq!(finding(&report, id)["fix"], "sudo tessera doctor", "{id}");
    }
    let value = "not checked: /sys/kernel/debug/rknpu/load: permission denied";
    assert_eq!(finding(&report, "npu.load")["value"], value);
    assert_eq!(finding(&report, "clients")["value"], "none seen; 1 process could not be looked at");
}

#[test]
fn the_loader_passes_over_other_libraries() {
    let planted = Planted::rk3588();
    let arm32 = "/usr/lib/arm-linux-gnueabihf";
    planted
        .library(&format!("{arm32}/librknnrt.so"), 40, "1.5.2")
        .write("/etc/ld.so.conf.d/arm-linux-gnueabihf.conf", format!("{arm32}\n"));
    let (report, _) = complains("32-bit library beside", &planted, &[]);
    assert_eq!(finding(&report, "library.found")["value"], LIBRARY);
    planted.link("/usr/local/lib/librknnrt.so", "/opt/gone.so");
    let (report, _) = complains("broken link beside", &planted, &["library.copies warning"]);
    let fix = "sudo rm /usr/local/lib/librknnrt.so && sudo ldconfig";
    assert_eq!(finding(&report, "library.copies")["fix"], fix);
    let details = [
        "/usr/lib/arm-linux-gnueabihf/librknnrt.so: 1.5.2, 32-bit ARM",
        "/usr/local/lib/librknnrt.so: is not there",
        "/usr/lib/librknnrt.so: 2.3.2, 64-bit ARM",
    ];
    assert_eq!(finding(&report, "library.copies")["details"], serde_json::json!(details));
    // What is no library at all is an error of the loader.
    planted.remove("/usr/local/lib/librknnrt.so").write("/usr/local/lib/librknnrt.so", "404");
    let expected = ["library.machine error", "library.copies warning"];
    complains("no library before", &planted, &expected);
}

#[test]
fn what_needs_root_names_the_command() {
    let planted = Planted::rk3588();
    planted.remove("/sys/kernel/debug/rknpu").remove("/sys/module/rknpu/version");
    let expected = ["driver.version info", "npu.domains info", "npu.load info", "npu.sram info"];
    let (report, _) = complains("debugfs not mounted", &planted, &expected);
    let fix = "sudo mount -t debugfs none /sys/kernel/debug && sudo tessera doctor";
    assert_eq!(finding(&report, "npu.load")["fix"], fix);
    planted.write("/proc/rknpu/version", "RKNPU driver: v0.9.8\n");
    planted.write("/proc/rknpu/load", "NPU load:  Core0:  0%, Core1:  0%, Core2:  0%,\n");
    complains("driver with files in /proc", &planted, &["npu.sram info"]);
}

#[test]
fn fixes_name_what_is_to_be_done() {
    let fix = |plant: Plant, id: &str| {
        let planted = Planted::rk3588();
        plant(&planted);
        let (report, _) = examine(&planted);
        finding(&report, id)["fix"].as_str().unwrap().to_owned()
    };
    let group: Plant = |p| p.replace("/proc/4242/status", "Groups:\t4 ", "Gone:\t4 ");
    assert!(fix(group, "nodes.permission").contains("sudo usermod -aG render $USER"));
    let rule = fix(|p| p.mode(RENDER, 0o600), "nodes.permission");
    assert!(rule.contains("/etc/udev/rules.d/99-rknpu.rules"), "{rule}");
    let hard: Plant = |p| p.replace("/proc/4242/limits", "65536  ", "1024   ");
    assert!(fix(hard, "limits.files").starts_with("ulimit -n 65536 "));
    let soft: Plant = |p| {
        p.replace("/proc/4242/limits", "65536  ", "1024   ").replace(
            "/proc/4242/limits",
            "1048576",
            "4096   ",
        )
    };
    assert!(fix(soft, "limits.files").contains("/etc/security/limits.d/"));
    let dangling = fix(|p| p.link(LIBRARY, "/gone.so"), "library.found");
    assert!(dangling.contains(" && sudo rm /usr/lib/librknnrt.so && sudo install "), "{dangling}");
    let user: Plant = |p| p.write("/proc/977/comm", "x; reboot\n").link("/proc/977/fd/11", RENDER);
    assert_eq!(fix(user, "clients"), "sudo kill 977   # or wait until it ends");
}

#[test]
fn a_driver_built_for_heaps_has_another_node() {
    let planted = Planted::rk3588();
    planted.remove(&format!("{NPU}/drm")).write("/dev/rknpu", "").mode("/dev/rknpu", 0o660);
    planted.write("/dev/dma_heap/system", "").mode("/dev/dma_heap/system", 0o660);
    let (report, _) = complains("heaps", &planted, &[]);
    assert_eq!(report["not_applicable"], serde_json::json!([]));
    assert_eq!(finding(&report, "nodes.render")["value"], "/dev/rknpu");
    planted.mode("/dev/dma_heap/system", 0o600);
    complains("closed heaps", &planted, &["nodes.heaps error"]);
    planted.remove("/dev/dma_heap");
    complains("no heaps", &planted, &["nodes.heaps error"]);
}

#[test]
fn root_is_told_that_others_may_not() {
    let planted = Planted::rk3588();
    planted.mode(RENDER, 0o600).write(
        "/proc/4242/status",
        "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t0\nCapEff:\t000001ffffffffff\n",
    );
    complains("root", &planted, &["nodes.permission info"]);
}

#[test]
fn other_machines_are_told_apart_and_are_in_order() {
    let laptop = Planted::laptop();
    let (report, text) = complains("laptop", &laptop, &["soc info"]);
    assert_eq!((&report["board"], &report["verdict"]), (&false.into(), &"info".into()));
    assert_eq!(report["not_applicable"].as_array().unwrap().len(), 33);
    assert!(
        text.contains("this is no RK3588 board (found ThinkPad X1 Carbon, without a device tree)"),
        "{text}"
    );

    let other = Planted::rk3588();
    other.write(
        "/sys/firmware/devicetree/base/compatible",
        "friendlyarm,nanopi-m5\0rockchip,rk3576\0",
    );
    let (report, _) = complains("RK3576", &other, &["soc info"]);
    let value = "this is no RK3588 board (found friendlyarm,nanopi-m5, rockchip,rk3576)";
    assert_eq!(finding(&report, "soc")["value"], value);

    complains("nothing at all", &Planted::empty(), &["soc info"]);
}

#[test]
fn this_machine_can_be_examined() {
    let output = tessera().args(["doctor", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["root"], "/");
    assert!([0, 1].contains(&output.status.code().unwrap()));
}

#[test]
fn hostile_files_are_read_safely() {
    let escapes = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{202e}\r";
    let planted = Planted::rk3588();
    planted
        .write("/sys/firmware/devicetree/base/model", format!("{escapes}\0"))
        .write("/proc/sys/kernel/osrelease", escapes)
        .stretch("/proc/meminfo", 1 << 40)
        .write("/sys/module/rknpu/version", [0xff, 0xfe, 0x00, 0x1b, b'0', b'.'])
        .remove("/sys/kernel/debug/rknpu/version")
        .write("/sys/kernel/debug/rknpu/load", "%%%%99999999999999999999999%\n")
        .write("/sys/kernel/debug/rknpu/mm", "(1bit = 18446744073709551615KB)\n[000] [..**]\n")
        .write(&format!("{DEVFREQ}/governor"), format!("{escapes}{}", "x".repeat(100_000)))
        .write(&format!("{DEVFREQ}/available_frequencies"), "-1 18446744073709551616 x\n")
        .write("/sys/class/devfreq/dmc/cur_freq", "18446744073709551615\n")
        .write("/sys/class/devfreq/dmc/max_freq", "0\n")
        .link("/sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "scaling_governor")
        .write("/sys/class/thermal/thermal_zone0/temp", "-9223372036854775808\n")
        .write("/sys/class/thermal/thermal_zone1/type", escapes)
        .write("/proc/4242/limits", "Max open files  -5  99999999999999999999 files\n")
        .write("/proc/sys/fs/file-nr", "18446744073709551615 0 0\n")
        .write("/proc/977/comm", format!("{escapes}; reboot"))
        .link("/proc/977/fd/3", RENDER)
        .link("/proc/978/fd", "/proc/978/fd")
        .write("/etc/group", "$(reboot):x:0:\n")
        .write(
            "/etc/ld.so.conf",
            format!("/{escapes}\ninclude {escapes}\ninclude /etc/*.conf\n/../../..\n"),
        )
        .link("/etc/own.conf", "own.conf")
        .link("/usr/lib/librkllmrt.so", escapes.trim_end())
        .stretch(LIBRARY, 1 << 40);
    // A pipe that no one writes to is not waited for.
    let pipe = planted.place("/sys/class/thermal/thermal_zone7/temp");
    planted.write("/sys/class/thermal/thermal_zone7/type", "pipe\n");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (report, text) = examine(&planted);
    assert_eq!(finding(&report, "library.version")["value"], "2.3.2");
    assert_eq!(finding(&report, "memory.available")["severity"], "info");
    assert_eq!(finding(&report, "driver.version")["severity"], "info");
    assert!(text.contains("\\u{1b}]0;owned\\u{7}\\u{1b}[2J\\u{202e}"), "{text}");
    let fixes = text.lines().filter(|line| line.starts_with("  fix: "));
    assert!(fixes.clone().count() > 3);
    assert!(!fixes.into_iter().any(|fix| fix.contains("$(") || fix.contains("; reboot")), "{text}");
}

#[test]
fn links_do_not_lead_out_of_the_root() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("compatible"), "rockchip,rk3588\0").unwrap();
    let planted = Planted::empty();
    planted.link("/proc/device-tree", outside.path().to_str().unwrap());
    complains("absolute link", &planted, &["soc info"]);
    let upward = format!("{}{}", "../".repeat(30), outside.path().display());
    planted.link("/proc/device-tree", &upward);
    complains("relative link", &planted, &["soc info"]);
}

#[test]
fn a_root_that_is_none_is_bad_input() {
    for root in ["/no/such/folder", "/etc/passwd"] {
        let output = tessera().args(["doctor", "--root", root]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.starts_with(&format!("error: root `{root}`: ")), "{said}");
    }
}
