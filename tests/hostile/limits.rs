//! Running the binary under limits of memory and time, and what holds of every run.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Address space, in KiB.
const MEMORY: u32 = 1_000_000;

/// Processor time of all threads, in seconds. What takes more is killed by a signal.
const SECONDS: u32 = 5;

/// Time after which a run that waits for something counts as hung. Only a machine that is much too
/// busy needs this long.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// What the error line says, without what comes before and after it.
    pub fn message(&self) -> &str {
        let lines = self.stderr.lines();
        lines.filter_map(|line| line.strip_prefix("error: ")).next_back().unwrap_or_default()
    }
}

/// Runs `tessera` in `folder` under the limits. It must end by itself, say nothing that steers a
/// terminal, and not panic.
pub fn tessera<A: AsRef<OsStr>>(folder: &Path, arguments: &[A]) -> Outcome {
    with_stdin(folder, arguments, Stdio::null())
}

/// The same, with something on standard input.
pub fn with_stdin<A: AsRef<OsStr>>(folder: &Path, arguments: &[A], stdin: Stdio) -> Outcome {
    let limits = format!("ulimit -v {MEMORY}; ulimit -t {SECONDS}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &limits, env!("CARGO_BIN_EXE_tessera")]).args(arguments);
    command.current_dir(folder).env("NO_COLOR", "1").stdin(stdin);
    finish(command)
}

/// Runs a command to its end, and checks what holds of every run of `tessera`.
pub fn finish(mut command: Command) -> Outcome {
    let shown = format!("{command:?}");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let drain = |mut stream: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes
        })
    };
    let stdout = drain(Box::new(child.stdout.take().unwrap()));
    let stderr = drain(Box::new(child.stderr.take().unwrap()));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("hangs: {shown}");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("what is printed is UTF-8");
    let (stdout, stderr) = (text(stdout.join().unwrap()), text(stderr.join().unwrap()));
    // A signal: an abort, a fault, or too much time.
    let code = status.code().unwrap_or_else(|| panic!("{status}: {shown}: {stderr}"));
    assert!(!stderr.contains("panicked"), "{shown}: {stderr}");
    for (name, text) in [("stdout", &stdout), ("stderr", &stderr)] {
        if let Some(found) = text.chars().find(|&character| steers(character)) {
            panic!("{found:?} on {name}: {shown}: {text}");
        }
    }
    Outcome { code, stdout, stderr }
}

/// Whether a character moves the cursor, hides, or turns text around. Written apart from the product's
/// own list.
pub fn steers(character: char) -> bool {
    let controls = character < ' ' && character != '\n' || ('\x7f'..='\u{9f}').contains(&character);
    controls
        || "\u{ad}\u{61c}\u{200b}\u{200c}\u{200d}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\
            \u{202d}\u{202e}\u{2060}\u{2061}\u{2066}\u{2067}\u{2068}\u{2069}\u{feff}\u{e0041}"
            .contains(character)
}
