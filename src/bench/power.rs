//! Sensors of electrical power.

use crate::doctor::{System, Unread};

const HWMON: &str = "/sys/class/hwmon";
const SUPPLIES: &str = "/sys/class/power_supply";

/// Supplies that tell what was agreed with a USB-C adapter, and not what flows.
const AGREED: &str = "tcpm-source-psy";

/// A sensor of power.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerSensor {
    /// Its chip or supply, and which sensor of it.
    pub name: String,
    files: Files,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Files {
    /// µW.
    Power(String),
    /// µA and µV.
    Product(String, String),
}

impl PowerSensor {
    /// The sensors of the board; the supplies where there are none. In the other case, why there are none.
    pub fn find(system: &System) -> Result<Vec<Self>, String> {
        let mut sensors: Vec<_> =
            system.numbered(HWMON, "hwmon").iter().flat_map(|chip| of_chip(system, chip)).collect();
        if sensors.is_empty() {
            let supplies = system.list(SUPPLIES).unwrap_or_default();
            sensors.extend(supplies.iter().filter_map(|name| of_supply(system, name)));
        }
        match sensors.is_empty() {
            true => Err(format!("{HWMON} and {SUPPLIES} have no sensor of power")),
            false => Ok(sensors),
        }
    }

    /// Where it is read.
    pub fn path(&self) -> &str {
        match &self.files {
            Files::Power(path) | Files::Product(path, _) => path,
        }
    }

    /// What it says, in W. Some supplies have a sign for the direction.
    pub fn watts(&self, system: &System) -> Result<f64, (String, Unread)> {
        let read = |path: &String| {
            let value = system.number::<i64>(path).map_err(|unread| (path.clone(), unread))?;
            Ok::<_, (String, Unread)>(micro(value))
        };
        match &self.files {
            Files::Power(power) => read(power),
            Files::Product(current, voltage) => Ok(read(current)? * read(voltage)?),
        }
    }
}

/// Sensors of a chip: of each what it reads now, or else its average.
fn of_chip(system: &System, chip: &str) -> Vec<PowerSensor> {
    let folder = format!("{HWMON}/{chip}");
    let name = system.line(format!("{folder}/name")).unwrap_or_else(|_| chip.to_owned());
    let mut sensors: Vec<(String, String)> = Vec::new();
    let files = system.list(&folder).unwrap_or_default();
    for suffix in ["_input", "_average"] {
        for file in &files {
            let Some(sensor) = file.strip_suffix(suffix) else { continue };
            let number = sensor.strip_prefix("power").unwrap_or_default();
            let is_power = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit());
            if is_power && !sensors.iter().any(|(known, _)| known == sensor) {
                sensors.push((sensor.to_owned(), format!("{folder}/{file}")));
            }
        }
    }
    let named = |(sensor, path): (String, String)| {
        let label = system.line(format!("{folder}/{sensor}_label")).unwrap_or(sensor);
        PowerSensor { name: format!("{name} {label}"), files: Files::Power(path) }
    };
    sensors.into_iter().map(named).collect()
}

/// The sensor of a supply.
fn of_supply(system: &System, name: &str) -> Option<PowerSensor> {
    if name.starts_with(AGREED) {
        return None;
    }
    let file = |file: &str| {
        let path = format!("{SUPPLIES}/{name}/{file}");
        system.exists(&path).then_some(path)
    };
    let files = match file("power_now") {
        Some(power) => Files::Power(power),
        None => Files::Product(file("current_now")?, file("voltage_now")?),
    };
    Some(PowerSensor { name: name.to_owned(), files })
}

/// A millionth of it, without its sign.
#[expect(clippy::cast_precision_loss, reason = "a sensor has fewer digits")]
fn micro(value: i64) -> f64 {
    value.unsigned_abs() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn system(files: &[(&str, &str)]) -> (tempfile::TempDir, System) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let place = folder.path().join(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, text).unwrap();
        }
        let system = System::below(folder.path()).unwrap();
        (folder, system)
    }

    fn found(files: &[(&str, &str)]) -> Result<Vec<(String, f64)>, String> {
        let (_folder, system) = system(files);
        let sensors = PowerSensor::find(&system)?;
        Ok(sensors.iter().map(|s| (s.name.clone(), s.watts(&system).unwrap())).collect())
    }

    #[test]
    fn sensors_of_chips_come_before_supplies() {
        let files = [
            ("sys/class/hwmon/hwmon0/name", "npu_thermal\n"),
            ("sys/class/hwmon/hwmon0/temp1_input", "43000\n"),
            ("sys/class/hwmon/hwmon2/name", "ina226\n"),
            ("sys/class/hwmon/hwmon2/power1_input", "7500000\n"),
            ("sys/class/hwmon/hwmon2/power1_average", "1\n"),
            ("sys/class/hwmon/hwmon2/power2_average", "250000\n"),
            ("sys/class/hwmon/hwmon2/power2_label", "rail\n"),
            ("sys/class/hwmon/hwmon2/power1_input_highest", "9\n"),
            ("sys/class/power_supply/BAT0/power_now", "1000000\n"),
        ];
        let expected = [("ina226 power1".to_owned(), 7.5), ("ina226 rail".to_owned(), 0.25)];
        assert_eq!(found(&files).unwrap(), expected);
    }

    #[test]
    fn supplies_tell_power_or_its_factors() {
        let files = [
            ("sys/class/power_supply/AC/online", "1\n"),
            ("sys/class/power_supply/BAT0/power_now", "6000000\n"),
            ("sys/class/power_supply/BAT1/current_now", "-1500000\n"),
            ("sys/class/power_supply/BAT1/voltage_now", "12000000\n"),
            ("sys/class/power_supply/tcpm-source-psy-4-0022/current_now", "3000000\n"),
            ("sys/class/power_supply/tcpm-source-psy-4-0022/voltage_now", "20000000\n"),
        ];
        assert_eq!(found(&files).unwrap(), [("BAT0".to_owned(), 6.0), ("BAT1".to_owned(), 18.0)]);
        let why = found(&files[4..]).unwrap_err();
        assert!(why.contains("no sensor of power"), "{why}");
    }
}
