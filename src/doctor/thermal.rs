//! Temperatures, and the trip points that slow the chip down or switch it off.

use super::finding::{Check, Finding};
use super::system::{System, Unread};

/// Temperatures.
pub const THERMAL: Check = Check {
    id: "thermal",
    title: "temperature",
    why: "a hot chip lowers its clocks, and above its critical point switches off",
};

const ZONES: &str = "/sys/class/thermal";

/// Temperature that is too warm for steady clocks, in m°C.
const WARM: i64 = 80_000;

/// Temperature that is too hot for work, in m°C.
const HOT: i64 = 95_000;

/// Temperatures that a sensor can report, in m°C.
const SENSIBLE: std::ops::RangeInclusive<i64> = -60_000..=200_000;

/// Trip points of a zone that are looked at.
const TRIPS: u32 = 16;

/// What is to be said of temperatures.
pub fn findings(system: &System) -> Vec<Finding> {
    let mut hottest: Option<(i64, String)> = None;
    let (mut warm, mut hot) = (false, false);
    let mut details = Vec::new();
    for Zone { name, folder } in zones(system) {
        let Ok(temperature) = temperature(system, &folder) else {
            details.push(format!("{name}: cannot be read"));
            continue;
        };
        let limits = Limits::read(system, &folder);
        warm |= temperature > WARM || temperature >= limits.slow;
        hot |= temperature >= HOT || temperature >= limits.stop;
        details.push(format!("{name}: {}", celsius(temperature)));
        if hottest.as_ref().is_none_or(|(most, _)| temperature > *most) {
            hottest = Some((temperature, name));
        }
    }
    let Some((temperature, name)) = hottest else {
        return vec![
            THERMAL
                .info(format!("not checked: {ZONES} has no sensor that can be read"))
                .with_details(details),
        ];
    };
    let value = format!("{} ({name})", celsius(temperature));
    let finding = match (hot, warm) {
        (true, _) => {
            THERMAL.error(value, "stop the work and let the chip cool; check heat sink and fan")
        }
        (false, true) => {
            THERMAL.warning(value, "give the chip a heat sink and a fan, and wait before measuring")
        }
        (false, false) => THERMAL.ok(value),
    };
    vec![finding.with_details(details)]
}

/// A sensor.
pub struct Zone {
    /// What it measures, such as `npu-thermal`.
    pub name: String,
    /// Its folder.
    pub folder: String,
}

/// Every sensor.
pub fn zones(system: &System) -> impl Iterator<Item = Zone> {
    system.numbered(ZONES, "thermal_zone").into_iter().map(|zone| {
        let folder = format!("{ZONES}/{zone}");
        Zone { name: system.line(format!("{folder}/type")).unwrap_or(zone), folder }
    })
}

/// What a sensor says, in m°C; values that no chip has are none.
pub fn temperature(system: &System, folder: &str) -> Result<i64, (String, Unread)> {
    let path = format!("{folder}/temp");
    match system.number(&path) {
        Ok(value) if SENSIBLE.contains(&value) => Ok(value),
        Ok(value) => Err((path, Unread::Strange(value.to_string()))),
        Err(unread) => Err((path, unread)),
    }
}

/// Trip points of a zone, in m°C.
struct Limits {
    /// Where clocks are lowered: the highest passive one, because those below only watch.
    slow: i64,
    /// Where the machine stops.
    stop: i64,
}

impl Limits {
    fn read(system: &System, folder: &str) -> Self {
        let mut slow: Option<i64> = None;
        let mut stop: Option<i64> = None;
        for trip in 0..TRIPS {
            let Ok(kind) = system.line(format!("{folder}/trip_point_{trip}_type")) else {
                break;
            };
            let Ok(at) = system.number::<i64>(format!("{folder}/trip_point_{trip}_temp")) else {
                continue;
            };
            // A trip point at or below 0 is one that is not used.
            if at <= 0 {
                continue;
            }
            match kind.as_str() {
                "passive" => slow = Some(slow.map_or(at, |other| other.max(at))),
                "hot" | "critical" => stop = Some(stop.map_or(at, |other| other.min(at))),
                _ => {}
            }
        }
        Limits { slow: slow.unwrap_or(i64::MAX), stop: stop.unwrap_or(i64::MAX) }
    }
}

/// A temperature for people.
fn celsius(thousandths: i64) -> String {
    let sign = if thousandths < 0 { "-" } else { "" };
    let tenths = thousandths.unsigned_abs() / 100;
    format!("{sign}{}.{} °C", tenths / 10, tenths % 10)
}
