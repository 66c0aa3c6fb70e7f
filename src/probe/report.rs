//! The answers, for people.

use std::fmt::Write;

use tessera_formats::escape::escaped;
use tessera_formats::npu::probe::{
    CapacityEnd, Domains, Int4, LongWeights, NibbleOrder, Overflow, Probe, RowStride,
};
use tessera_formats::npu::{Board, Engine};

use crate::size;
use crate::table;

/// What an engine is called.
pub fn engine(engine: Engine) -> &'static str {
    match engine {
        Engine::I4 => "int4",
        Engine::I8 => "int8",
        Engine::F16 => "f16",
    }
}

/// As many rows.
pub fn rows(m: u32) -> String {
    if m == 1 { "1 row".to_owned() } else { format!("{m} rows") }
}

/// Everything that was asked, with its answer, then what is wrong.
pub fn text(board: &Board, probe: &Probe) -> String {
    let mut text = String::new();
    if probe.stand_in {
        text.push_str("This is the stand-in for tests: nothing here is of any NPU.\n\n");
    }
    let board_rows = [("board", &probe.machine), ("SoC", &probe.soc), ("kernel", &probe.kernel)];
    let known = board_rows.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?)));
    let mut rows: Vec<(String, String)> =
        known.map(|(name, value)| (name.to_owned(), escaped(value))).collect();
    rows.push(("librknnrt".to_owned(), escaped(&probe.library)));
    rows.push(("driver".to_owned(), escaped(&probe.driver)));
    rows.push(("sums of all engines".to_owned(), self_test(probe)));
    integers(&probe.int4, &mut rows);
    arithmetic(probe, &mut rows);
    if let Some(domains) = &probe.domains {
        of_domains(domains, &mut rows);
    }
    speed(board, probe, &mut rows);
    let mut answers = table::with_headers(&["question", "answer"], &[]);
    for (question, answer) in rows {
        answers.add_row([question, answer]);
    }
    let _ = writeln!(text, "{answers}");
    // Those that are fatal are told as errors.
    for finding in probe.self_test.iter().filter(|finding| !finding.fatal) {
        let _ = writeln!(text, "\nwarning: {}", escaped(&finding.text));
    }
    for failures in probe.failures.chunk_by(|one, next| one.error == next.error) {
        let questions: Vec<_> = failures.iter().map(|failure| failure.question.as_str()).collect();
        let error = failures.first().map(|failure| escaped(&failure.error)).unwrap_or_default();
        let _ = writeln!(text, "\nno answer: {}: {error}", questions.join(", "));
    }
    text
}

fn self_test(probe: &Probe) -> String {
    let not_asked = probe.failures.iter().any(|failure| failure.question == super::SELF_TEST);
    match probe.self_test.len() {
        0 if not_asked => "not tested".to_owned(),
        0 => "right".to_owned(),
        1 => "1 finding".to_owned(),
        count => format!("{count} findings"),
    }
}

fn integers(int4: &Int4, rows: &mut Vec<(String, String)>) {
    if let Some(overflow) = int4.overflow {
        let word = match overflow {
            Overflow::Saturate => "saturate",
            Overflow::Wrap => "wrap",
            Overflow::Other => "neither saturate nor wrap",
        };
        let sums = int4.sums.iter().map(|sum| format!("{} gives {}", sum.exact, sum.found));
        let sums: Vec<_> = sums.collect();
        rows.push(("int4 sums beyond 16 bits".to_owned(), format!("{word}: {}", sums.join(", "))));
    }
    if let Some(right) = int4.fits_in_the_end {
        rows.push(("int4 sums that fit in the end".to_owned(), right_or_wrong(right)));
    }
    if let Some(order) = int4.nibble_order {
        let order = match order {
            NibbleOrder::LowFirst => "even column in the low half, as in packs",
            NibbleOrder::HighFirst => "even column in the high half, not as in packs",
            NibbleOrder::Other => "neither half",
        };
        rows.push(("int4 weights in a byte".to_owned(), order.to_owned()));
    }
    for (where_to, right) in
        [("activations", int4.least_in_activations), ("weights", int4.least_in_weights)]
    {
        if let Some(right) = right {
            rows.push((format!("−8 in {where_to}"), right_or_wrong(right)));
        }
    }
}

fn right_or_wrong(right: bool) -> String {
    if right { "right" } else { "wrong" }.to_owned()
}

fn arithmetic(probe: &Probe, rows: &mut Vec<(String, String)>) {
    for odd in &probe.odd_rows {
        let stride = match odd.rows {
            RowStride::Tight => "right",
            RowStride::Padded => "laid out as the next multiple of 4",
            RowStride::Wrong => "wrong",
        };
        let guard = if odd.guard_intact { "nothing" } else { "something" };
        let answer = format!("{stride}, {guard} written behind the results");
        rows.push((format!("{} rows, {}", odd.m, engine(odd.engine)), answer));
    }
    for half in &probe.halves {
        let deviations = half.lane_zero + half.elsewhere;
        let answer = match deviations {
            0 => format!("{} as the model says", half.results),
            _ => format!(
                "{deviations} of {} not as the model says: {} in lane 0, {} elsewhere, {} lowered as \
                 reported",
                half.results, half.lane_zero, half.elsewhere, half.explained
            ),
        };
        rows.push((format!("f16 sums, core {}", half.core), answer));
    }
    for long in &probe.long_columns {
        let weights = long.weights.map_or("refused", |weights| match weights {
            LongWeights::OneBlock => "weights in one block",
            LongWeights::Segments => "weights in segments of 8192 columns",
            LongWeights::Neither => "wrong, in one block and in segments",
        });
        let parts = match long.parts_added_right {
            None => "",
            Some(true) => ", parts beyond 16 bits added right",
            Some(false) => ", parts beyond 16 bits added wrong",
        };
        let question = format!("{} columns, {}", long.k, engine(long.engine));
        rows.push((question, format!("{weights}{parts}")));
    }
    let masks = |accepted: bool| {
        let masks = probe.core_masks.iter().filter(move |mask| mask.accepted == accepted);
        let shown: Vec<_> = masks.map(|mask| mask.mask.to_string()).collect();
        if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
    };
    if !probe.core_masks.is_empty() {
        let answer = format!("{} accepted; {} refused", masks(true), masks(false));
        rows.push(("core masks".to_owned(), answer));
    }
}

fn of_domains(domains: &Domains, rows: &mut Vec<(String, String)>) {
    rows.push(("domains that work".to_owned(), domains.working.to_string()));
    if let Some(capacity) = domains.capacity {
        let why = match capacity.ended_by {
            CapacityEnd::Refused => format!("then not {} more", size::show(capacity.step)),
            CapacityEnd::Memory => "then the board had no more to spare".to_owned(),
            CapacityEnd::Addresses => "all of its addresses".to_owned(),
        };
        let answer = format!("{}, {why}", size::show(capacity.bytes));
        rows.push(("bytes of a domain".to_owned(), answer));
    }
}

fn speed(board: &Board, probe: &Probe, rows: &mut Vec<(String, String)>) {
    if let Some(submit) = probe.submit {
        let [one, all] = [submit.one_core_seconds, submit.all_cores_seconds].map(time);
        rows.push(("smallest matmul".to_owned(), format!("{one}, {all} with all cores at work")));
    }
    for few in &probe.few_rows {
        let question = format!("{}, int4, {} × {}", self::rows(few.m), few.n, few.k);
        rows.push((question, time(few.seconds)));
    }
    for layouts in &probe.layouts {
        let question = format!(
            "{}, {}, {} × {}",
            self::rows(layouts.m),
            engine(layouts.engine),
            layouts.n,
            layouts.k
        );
        let same = if layouts.same_results { "the same results" } else { "other results" };
        let [normal, native] = [layouts.normal_seconds, layouts.native_seconds].map(time);
        rows.push((question, format!("{normal} row after row, {native} native, {same}")));
    }
    for products in &probe.products {
        let question = format!("products of {}", engine(products.engine));
        let giga = products.macs_per_second / 1e9;
        let answer = format!(
            "{giga:.3} G/s, {} rows, {} × {} on each of {} cores",
            products.m, products.n, products.k, products.cores
        );
        rows.push((question, answer));
    }
    for reading in &probe.reading {
        let question = format!("weights of {} for one row", engine(reading.engine));
        let giga = reading.bytes_per_second / 1e9;
        let answer = format!(
            "{giga:.3} GB/s, {} × {} on each of {} cores",
            reading.n, reading.k, reading.cores
        );
        rows.push((question, answer));
    }
    let target = &board.target;
    let answer = format!(
        "{}: {} cores, {} domains of {} for weights",
        target.name,
        target.cores,
        target.domains,
        size::show(target.domain_capacity)
    );
    rows.push(("target".to_owned(), answer));
}

/// Seconds as milliseconds.
fn time(seconds: f64) -> String {
    format!("{:.3} ms", seconds * 1e3)
}
