//! The audit log against its limits, as ratios of medians of interleaved rounds (1.0: as fast as the
//! limit):
//!
//! - append: records made and written, a batch of 64 to a write(2), ÷ the same bytes appended raw, a
//!   write(2) a record; and both alike, a write(2) a record. Wanted: at least 0.5.
//! - rolling: the same in segments of 64 KiB, of which there are then about a hundred, ÷ in one file. Wanted: near 1,
//!   though no log ever rolls that often.
//! - durable: a batch of 64 and an fdatasync(2) ÷ the same bytes appended raw, with as many of those.
//! - process: records acknowledged by the real writer over its socket ÷ the same raw append.
//! - verify ÷ sha256sum(1) of the same file. Wanted: at least 0.8. And ÷ the bare hash of the same
//!   bytes in memory: a chain hashes many short messages, which costs more than one long one. And of eight logs by
//!   `portcullis audit verify`, several at once, ÷ sha256sum(1) of all of them.
//!
//! - redact: nanoseconds for a path in which nothing is found, which is what every text of a record costs in `append`
//!   above; and a body of 64 KiB ÷ the bare hash of it.
//!
//! criterion measures each part as well, for comparison over time.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark may panic and reports"
)]

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use portcullis::audit::AuditEvent;
use portcullis::audit::folder::{LogFolder, file_name, open_or_create};
use portcullis::audit::log::Log;
use portcullis::audit::redact;
use portcullis::audit::roll::SEGMENT_BYTES;
use portcullis::audit::verify::{verify, verify_file};
use portcullis::ids::{ConnId, PolicyGeneration, SessionId};
use portcullis::policy::{Durability, Host, Port, RuleId, Transport, Verdict};
use portcullis::sys::process::Spawn;
use portcullis::wire::Channel;
use portcullis::wire::audit::{Append, AuditBoot, AuditReply};
use portcullis::wire::supply::WriterSupply;
use sha2::{Digest, Sha256};

const RECORDS: u64 = 20_000;
const BATCH: u64 = 64;
const ROUNDS: usize = 11;

fn decided(conn: u64) -> AuditEvent {
    AuditEvent::EgressDecided {
        process: None,
        process_unknown: None,
        conn: ConnId(conn),
        transport: Transport::Connect,
        host: Host::parse("api.openai.com").unwrap(),
        port: Port::HTTPS,
        method: None,
        path: None,
        verdict: Verdict::Allow,
        reason: None,
        rule: Some(RuleId::new("network.domains.\"api.openai.com\"")),
        generation: PolicyGeneration::new("0123456789abcdef"),
    }
}

/// Writes a log of [`RECORDS`] and answers its bytes and how long that took.
fn write_log(folder: &Path, batch: u64) -> (Vec<u8>, Duration) {
    keep_log(folder, batch, RECORDS, Durability::Batch, SEGMENT_BYTES)
}

/// The same with as many records, kept so durably, in segments of so many bytes.
fn keep_log(
    folder: &Path,
    batch: u64,
    records: u64,
    durability: Durability,
    segment_bytes: u64,
) -> (Vec<u8>, Duration) {
    let session = SessionId::generate();
    let opened = LogFolder::open(folder).unwrap();
    let events: Vec<AuditEvent> = (0..records).map(decided).collect();
    let whose = (session, "bench");
    let log = Log::create(&opened, folder, whose, durability, "0123456789abcdef").unwrap();
    let mut log = log.with_segments_of(segment_bytes);
    let start = Instant::now();
    for (number, event) in (1..).zip(events) {
        log.stage(event).unwrap();
        if number % batch == 0 {
            log.commit().unwrap();
        }
    }
    log.commit().unwrap();
    let took = start.elapsed();
    let mut text = Vec::new();
    for segment in opened.segments(session).unwrap() {
        let path = folder.join(segment.file_name());
        text.append(&mut fs::read(&path).unwrap());
        fs::remove_file(path).unwrap();
    }
    (text, took)
}

/// `portcullis audit verify` of eight logs, several at once, ÷ sha256sum(1) of all of them.
fn verify_many(folder: &Path) {
    open_or_create(folder).unwrap();
    let opened = LogFolder::open(folder).unwrap();
    for _ in 0..8 {
        let whose = (SessionId::generate(), "bench");
        let log = Log::create(
            &opened,
            folder,
            whose,
            Durability::Batch,
            "0123456789abcdef",
        );
        let mut log = log.unwrap();
        for conn in 0..5 * RECORDS {
            log.stage(decided(conn)).unwrap();
            if conn % BATCH == 0 {
                log.commit().unwrap();
            }
        }
        log.commit().unwrap();
    }
    let logs = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let logs: Vec<_> = logs.filter(|path| path.is_file()).collect();
    let bytes: u64 = logs
        .iter()
        .map(|log| fs::metadata(log).unwrap().len())
        .sum();
    let ours = || {
        let program = Path::new(env!("CARGO_BIN_EXE_portcullis"));
        let verify = Spawn::new(program).arg("audit").arg("verify").arg("--dir");
        time(|| {
            let status = verify.arg(folder).start().unwrap().wait().unwrap();
            assert!(status.success(), "{status}");
        })
    };
    let rival = || {
        let sums = Spawn::new(Path::new("/usr/bin/sha256sum"));
        let sums = logs.iter().fold(sums, Spawn::arg);
        time(|| sums.start().unwrap().wait())
    };
    let found = ratio(ours, rival);
    let speed = |took: Duration| {
        f64::from(u32::try_from(bytes >> 10).unwrap()) * 1024e-9 / took.as_secs_f64()
    };
    println!(
        "audit verify of {} logs ÷ sha256sum(1) of them: {found:.2} ({:.2} GB/s, {:.2} GB/s)",
        logs.len(),
        speed(ours()),
        speed(rival())
    );
}

/// Appends the same bytes, a write(2) and an fdatasync(2) for each batch of records.
fn append_raw_durably(folder: &Path, text: &[u8], batch: usize) -> Duration {
    let path = folder.join("raw");
    let file = OpenOptions::new().create_new(true).append(true).open(&path);
    let mut file = file.unwrap();
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let start = Instant::now();
    for lines in lines.chunks(batch) {
        file.write_all(&lines.concat()).unwrap();
        file.sync_data().unwrap();
    }
    let took = start.elapsed();
    fs::remove_file(path).unwrap();
    took
}

/// Appends the same bytes, a write(2) a record.
fn append_raw(folder: &Path, text: &[u8]) -> Duration {
    let path = folder.join("raw");
    let mut file: File = OpenOptions::new()
        .create_new(true)
        .append(true)
        .open(&path)
        .unwrap();
    let start = Instant::now();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        file.write_all(line).unwrap();
    }
    let took = start.elapsed();
    fs::remove_file(path).unwrap();
    took
}

/// Has the real writer record as much, with a gate's worth of requests in flight.
fn append_through_process(folder: &Path) -> Duration {
    let (session, their_session) = Channel::pair().unwrap();
    let (gate, their_gate) = Channel::pair().unwrap();
    let (supply, their_supply) = Channel::pair().unwrap();
    let mut child = Spawn::new(Path::new(env!("CARGO_BIN_EXE_portcullis-audit")))
        .fd(their_session, 3)
        .fd(their_supply, 4)
        .fd(open_or_create(folder).unwrap(), 5)
        .start()
        .unwrap();
    let id = SessionId::generate();
    let (durability, user) = (Durability::Batch, "bench".to_owned());
    let boot = AuditBoot {
        session: id,
        user,
        folder: folder.into(),
        durability,
        ledger: true,
        on_failure: portcullis::policy::OnFailure::Block,
        segments: None,
    };
    supply.send(&WriterSupply::Boot(boot)).unwrap();
    assert_eq!(session.recv::<AuditReply>().unwrap(), AuditReply::Ready);
    supply
        .send_with(&WriterSupply::Gate, &[their_gate.as_fd()])
        .unwrap();
    drop(their_gate);
    let gate = gate.into_stream();
    let (sender, receiver) = (Channel::new(gate.try_clone().unwrap()), Channel::new(gate));
    let start = Instant::now();
    let sending = std::thread::spawn(move || {
        for id in 0..RECORDS {
            let event = decided(id);
            sender.send(&Append { id, event }).unwrap();
        }
    });
    for _ in 0..RECORDS {
        assert!(matches!(
            receiver.recv().unwrap(),
            AuditReply::Recorded { .. }
        ));
    }
    let took = start.elapsed();
    sending.join().unwrap();
    drop((session, receiver));
    child.wait().unwrap();
    fs::remove_file(folder.join(file_name(id))).unwrap();
    took
}

/// What it costs to look for secrets where there are none.
fn redaction() {
    const TIMES: u32 = 100_000;
    redact::prepare();
    let path = "/repos/owner/name/commits/3f2a9c1b7d5e4f60718293a4b5c6d7e8f9012345";
    let took = time(|| {
        for _ in 0..TIMES {
            black_box(redact::bytes(black_box(path.as_bytes())));
        }
    });
    println!("redact: {} ns a path", took.as_nanos() / u128::from(TIMES));
    let body =
        r#"{"type":"message","role":"user","content":"an innocent line of text"}"#.repeat(950);
    let body = body.as_bytes();
    let found = ratio(
        || time(|| black_box(redact::bytes(black_box(body)))),
        || time(|| black_box(Sha256::digest(black_box(body)))),
    );
    println!("redact: a body in {found:.2} of the speed of its hash");
}

fn time<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    black_box(work());
    start.elapsed()
}

/// Median of how many times as long the limit takes as we do, of rounds in which both take turns.
fn ratio(mut ours: impl FnMut() -> Duration, mut limit: impl FnMut() -> Duration) -> f64 {
    let mut ratios: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let ours = ours();
            limit().as_secs_f64() / ours.as_secs_f64()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    *ratios.get(ROUNDS / 2).unwrap()
}

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (text, _) = write_log(folder, BATCH);
    let raw = || append_raw(folder, &text);
    println!(
        "audit: {RECORDS} records of {} bytes",
        text.len() as u64 / RECORDS
    );
    let batched = ratio(|| write_log(folder, BATCH).1, raw);
    println!(
        "append, batches of {BATCH} ÷ raw append of the same bytes: {batched:.2} (wanted >= 0.5)"
    );
    println!(
        "append, one by one ÷ raw append of the same bytes: {:.2}",
        ratio(|| write_log(folder, 1).1, raw)
    );
    let in_segments = |bytes| keep_log(folder, BATCH, RECORDS, Durability::Batch, bytes).1;
    println!(
        "append in segments of 64 KiB ÷ in one file: {:.2}",
        ratio(|| in_segments(64 << 10), || in_segments(SEGMENT_BYTES))
    );
    let some = RECORDS / 10;
    let durably = || keep_log(folder, BATCH, some, Durability::Each, SEGMENT_BYTES);
    let (some_text, took) = durably();
    println!(
        "append, batches of {BATCH} with fdatasync ÷ raw append with fdatasync: {:.2} ({:.0} records/s)",
        ratio(
            || durably().1,
            || append_raw_durably(folder, &some_text, usize::try_from(BATCH).unwrap())
        ),
        f64::from(u32::try_from(some).unwrap()) / took.as_secs_f64()
    );
    println!(
        "append through the process ÷ raw append of the same bytes: {:.2}",
        ratio(|| append_through_process(folder), raw)
    );
    let check = || verify(text.as_slice(), None).unwrap();
    let verified = ratio(|| time(check), || time(|| Sha256::digest(&text)));
    println!("verify ÷ SHA-256 of the same bytes, as one message in memory: {verified:.2}");
    let path = folder.join("sample");
    fs::write(&path, &text).unwrap();
    let file = File::open(&path).unwrap();
    let check_file = || {
        (&file).rewind().unwrap();
        verify_file(&file, None).unwrap()
    };
    let rival = || {
        Spawn::new(Path::new("/usr/bin/sha256sum"))
            .arg(&path)
            .start()
            .unwrap()
            .wait()
    };
    let verified = ratio(|| time(check_file), || time(rival));
    println!("verify ÷ sha256sum(1) of the same file: {verified:.2} (wanted >= 0.8)");
    verify_many(&folder.join("many"));

    redaction();
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let mut group = criterion.benchmark_group("audit");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("verify", |bencher| bencher.iter(check));
    group.bench_function("sha256", |bencher| bencher.iter(|| Sha256::digest(&text)));
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function("append", |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| write_log(folder, BATCH).1).sum());
    });
    group.bench_function("append raw", |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| raw()).sum());
    });
    group.finish();
    criterion.final_summary();
}
