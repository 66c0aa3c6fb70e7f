//! What a board does while it works: load, clocks, temperature, power.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::power::PowerSensor;
use crate::doctor::clocks::{ddr_device, frequency, npu_device, policies, policy_frequency};
use crate::doctor::driver::loads;
use crate::doctor::thermal::{temperature, zones};
use crate::doctor::{System, Unread};

/// Zone of the NPU's temperature.
const NPU_ZONE: &str = "npu-thermal";

/// Values of one sensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Series {
    count: u32,
    sum: f64,
    min: f64,
    max: f64,
}

/// What is told of the values of a sensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Range {
    /// The least.
    pub min: f64,
    /// Their mean.
    pub mean: f64,
    /// The greatest.
    pub max: f64,
}

impl Series {
    fn push(&mut self, value: f64) {
        let first = self.count == 0;
        self.min = if first { value } else { self.min.min(value) };
        self.max = if first { value } else { self.max.max(value) };
        self.sum += value;
        self.count = self.count.saturating_add(1);
    }

    fn range(&self) -> Option<Range> {
        let Series { count, sum, min, max } = *self;
        (count > 0).then(|| Range { min, mean: sum / f64::from(count), max })
    }
}

/// A sensor, and what was read of it.
struct Channel<T> {
    /// How to read it, or why that cannot be.
    sensor: Result<T, String>,
    series: Series,
    /// Why it could not be read, the last time.
    unread: Option<String>,
}

impl<T> Channel<T> {
    fn new(sensor: Result<T, String>) -> Self {
        Channel { sensor, series: Series::default(), unread: None }
    }

    fn sample(&mut self, read: impl FnOnce(&T) -> Result<f64, (String, Unread)>) {
        let Ok(sensor) = &self.sensor else { return };
        match read(sensor) {
            Ok(value) => self.series.push(value),
            Err(unread) => self.unread = Some(reason(&unread)),
        }
    }

    /// What was read, or why nothing was.
    fn outcome(&self) -> Result<Range, String> {
        let why = || match (&self.sensor, &self.unread) {
            (Err(why), _) | (_, Some(why)) => why.clone(),
            _ => "was not read".to_owned(),
        };
        self.series.range().ok_or_else(why)
    }
}

fn reason((path, unread): &(String, Unread)) -> String {
    format!("{path}: {unread}")
}

/// The sensors of a board, and what was read of them.
pub struct Recording {
    system: System,
    samples: usize,
    load: Vec<Series>,
    no_load: Option<String>,
    npu: Channel<String>,
    ddr: Channel<String>,
    cpu: Vec<Channel<String>>,
    temperature: Channel<String>,
    power: Result<Vec<Channel<PowerSensor>>, String>,
}

impl Recording {
    /// The sensors that there are, nothing read yet.
    pub fn new(system: &System) -> Self {
        let zone = zones(system).find(|zone| zone.name == NPU_ZONE).map(|zone| zone.folder);
        let no_zone = || format!("there is no thermal zone `{NPU_ZONE}`");
        let power = PowerSensor::find(system);
        let channels = |sensors: Vec<_>| sensors.into_iter().map(|s| Channel::new(Ok(s))).collect();
        Recording {
            samples: 0,
            load: Vec::new(),
            no_load: None,
            npu: Channel::new(npu_device(system)),
            ddr: Channel::new(ddr_device(system)),
            cpu: policies(system).into_iter().map(|policy| Channel::new(Ok(policy))).collect(),
            temperature: Channel::new(zone.ok_or_else(no_zone)),
            power: power.map(channels),
            system: system.clone(),
        }
    }

    /// Reads all of them.
    pub fn sample(&mut self) {
        let system = &self.system;
        self.samples += 1;
        match loads(system) {
            Ok(loads) => {
                self.load.resize(self.load.len().max(loads.len()), Series::default());
                for (series, load) in self.load.iter_mut().zip(loads) {
                    series.push(float(load));
                }
            }
            Err(unread) => self.no_load = Some(reason(&unread)),
        }
        for clock in [&mut self.npu, &mut self.ddr] {
            clock.sample(|folder| frequency(system, folder).map(|hertz| float(hertz) / 1e6));
        }
        for clock in &mut self.cpu {
            clock.sample(|policy| policy_frequency(system, policy).map(|khz| float(khz) / 1e3));
        }
        self.temperature.sample(|folder| {
            let thousandths = temperature(system, folder)?;
            let sign = if thousandths < 0 { -1.0 } else { 1.0 };
            Ok(sign * float(thousandths.unsigned_abs()) / 1e3)
        });
        for sensor in self.power.iter_mut().flatten() {
            sensor.sample(|sensor| sensor.watts(system));
        }
    }

    /// What was read while a test took `time` for `tokens`.
    pub fn report(&self, time: Duration, tokens: f64) -> Sensors {
        let mut unread = BTreeMap::new();
        let mut keep = |name: &'static str, outcome: Result<Range, String>| {
            outcome.map_err(|why| unread.insert(name, why)).ok()
        };
        let npu_mhz = keep("npu_mhz", self.npu.outcome());
        let ddr_mhz = keep("ddr_mhz", self.ddr.outcome());
        let npu_celsius = keep("npu_celsius", self.temperature.outcome());
        let mut cpu_mhz = BTreeMap::new();
        for clock in &self.cpu {
            match (&clock.sensor, clock.outcome()) {
                (Ok(policy), Ok(range)) => drop(cpu_mhz.insert(policy.clone(), range)),
                (_, outcome) => drop(keep("cpu_mhz", outcome)),
            }
        }
        if self.cpu.is_empty() {
            keep("cpu_mhz", Err("there is no policy of the CPUs' clocks".to_owned()));
        }
        let mut power = Vec::new();
        match &self.power {
            Ok(sensors) => {
                for channel in sensors {
                    match (&channel.sensor, channel.outcome()) {
                        (Ok(sensor), Ok(watts)) => {
                            power.push(Power::new(sensor, watts, time, tokens));
                        }
                        (_, outcome) => drop(keep("power", outcome)),
                    }
                }
            }
            Err(why) => drop(keep("power", Err(why.clone()))),
        }
        let load: Vec<_> = self.load.iter().filter_map(Series::range).collect();
        if let (true, Some(why)) = (load.is_empty(), &self.no_load) {
            keep("npu_load", Err(why.clone()));
        }
        Sensors {
            samples: self.samples,
            npu_load: (!load.is_empty()).then_some(load),
            npu_mhz,
            ddr_mhz,
            cpu_mhz: (!cpu_mhz.is_empty()).then_some(cpu_mhz),
            npu_celsius,
            power: (!power.is_empty()).then_some(power),
            unread,
        }
    }
}

/// What sensors said during a test; null for those that could not be read.
#[derive(Debug, Serialize)]
pub struct Sensors {
    /// How often they were read.
    samples: usize,
    /// Load of each core of the NPU in percent, by its driver.
    pub npu_load: Option<Vec<Range>>,
    /// The NPU's clock.
    pub npu_mhz: Option<Range>,
    /// The memory's clock.
    pub ddr_mhz: Option<Range>,
    /// Clocks of the CPUs, by policy.
    pub cpu_mhz: Option<BTreeMap<String, Range>>,
    /// The NPU's temperature.
    pub npu_celsius: Option<Range>,
    /// Power, of every sensor.
    pub power: Option<Vec<Power>>,
    /// Why something could not be read, by the field's name.
    pub unread: BTreeMap<&'static str, String>,
}

/// What a sensor of power said.
#[derive(Debug, Serialize)]
pub struct Power {
    /// Its chip or supply, and which sensor of it.
    pub name: String,
    /// Where it is read.
    path: String,
    /// Power in W.
    pub watts: Range,
    /// Mean power times the time of the test.
    pub joules: f64,
    /// The same for a token.
    pub joules_per_token: f64,
}

impl Power {
    fn new(sensor: &PowerSensor, watts: Range, time: Duration, tokens: f64) -> Self {
        let joules = watts.mean * time.as_secs_f64();
        Power {
            name: sensor.name.clone(),
            path: sensor.path().to_owned(),
            watts,
            joules,
            joules_per_token: joules / tokens.max(1.0),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a sensor has fewer digits")]
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let place = root.join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, text).unwrap();
    }

    #[test]
    fn values_that_change_have_their_range() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(root, "sys/class/thermal/thermal_zone0/type", "soc-thermal\n");
        write(root, "sys/class/thermal/thermal_zone6/type", "npu-thermal\n");
        write(root, "sys/class/hwmon/hwmon1/power1_input", "0\n");
        write(root, "sys/class/devfreq/fdab0000.npu/cur_freq", "300000000\n");
        write(root, "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq", "408000\n");
        let mut recording = Recording::new(&System::below(root).unwrap());
        for (load, clock, milli, micro) in [
            ("Core0: 10%, Core1:  0%, Core2: 100%,", "300000000", "-1500", "2000000"),
            ("Core0: 20%, Core1:  0%, Core2: 100%,", "1000000000", "40000", "4000000"),
            ("Core0: 60%, Core1:  0%, Core2: 100%,", "800000000", "44500", "9000000"),
        ] {
            let load = format!("NPU load:  {load}\n");
            write(root, "sys/kernel/debug/rknpu/load", &load);
            write(root, "sys/class/devfreq/fdab0000.npu/cur_freq", clock);
            write(root, "sys/class/thermal/thermal_zone6/temp", milli);
            write(root, "sys/class/hwmon/hwmon1/power1_input", micro);
            recording.sample();
        }
        let sensors = recording.report(Duration::from_secs(4), 10.0);
        let range = |min, mean, max| Range { min, mean, max };
        assert_eq!(sensors.samples, 3);
        let load = [range(10.0, 30.0, 60.0), range(0.0, 0.0, 0.0), range(100.0, 100.0, 100.0)];
        assert_eq!(sensors.npu_load.unwrap(), load);
        assert_eq!(sensors.npu_mhz, Some(range(300.0, 700.0, 1000.0)));
        assert_eq!(sensors.cpu_mhz.unwrap()["policy4"], range(408.0, 408.0, 408.0));
        let celsius = sensors.npu_celsius.unwrap();
        assert_eq!((celsius.min, celsius.max), (-1.5, 44.5));
        let power = &sensors.power.unwrap()[0];
        assert_eq!((power.watts, power.joules), (range(2.0, 5.0, 9.0), 20.0));
        assert_eq!(power.joules_per_token, 2.0);
        assert_eq!(sensors.ddr_mhz, None);
        assert_eq!(sensors.unread.keys().collect::<Vec<_>>(), [&"ddr_mhz"]);
    }

    /// What is away for a while is told by what was read before.
    #[test]
    fn a_sensor_that_goes_away_keeps_its_values() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(root, "sys/class/devfreq/dmc/cur_freq", "2112000000\n");
        let mut recording = Recording::new(&System::below(root).unwrap());
        recording.sample();
        write(root, "sys/class/devfreq/dmc/cur_freq", "fast\n");
        recording.sample();
        let sensors = recording.report(Duration::from_secs(1), 1.0);
        assert_eq!(sensors.ddr_mhz.unwrap().mean, 2112.0);
        assert!(sensors.unread["npu_load"].ends_with("is not there"), "{:?}", sensors.unread);
        assert_eq!(sensors.unread.len(), 5);
    }
}
