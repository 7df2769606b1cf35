// PouchDB on LevelDB in Node.js, driven by pouch_rival.py: one job as a JSON line on stdin, answers as JSON lines on
// stdout. `saved_ns` is a string: nanoseconds of the system's monotonic clock do not fit into a number.
"use strict";

const fs = require("fs");
const readline = require("readline");
const { createRequire } = require("module");

const fromRivals = createRequire(process.env.POUCH_FOLDER + "/");
const PouchDB = fromRivals("pouchdb");

const FILL_BATCH = 1000;
const BATCH = { batch_size: 1000, batches_limit: 10 };

const emit = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function open(folder) {
    fs.mkdirSync(folder, { recursive: true });
    return PouchDB.defaults({ prefix: folder + "/" });
}

async function fill(db, file) {
    const docs = fs.readFileSync(file, "utf8").split("\n").filter(Boolean).map((line) => JSON.parse(line));
    for (let start = 0; start < docs.length; start += FILL_BATCH) {
        await db.bulkDocs(docs.slice(start, start + FILL_BATCH));
    }
}

// The database behind express-pouchdb, filled from `file`; then, for each line on stdin, the readings of that file one by one.
async function server(job, lines) {
    const Local = open(job.folder);
    const db = new Local("bench");
    await db.info();
    if (job.file) await fill(db, job.file);
    const app = fromRivals("express")();
    app.use("/db", fromRivals("express-pouchdb")(Local, { mode: "minimumForPouchDB", inMemoryConfig: true, logPath: job.folder + "/log.txt" }));
    const listener = app.listen(0, "127.0.0.1", () => emit({ port: listener.address().port }));
    const more = await lines.next();
    if (more.done) return;
    const saves = JSON.parse(more.value);
    const docs = fs.readFileSync(saves.file, "utf8").split("\n").filter(Boolean).map((line) => JSON.parse(line));
    for (const doc of docs) {
        await pause(saves.interval_ms);
        doc.saved_ns = String(process.hrtime.bigint());
        await db.put(doc);
    }
}

// An empty copy takes everything from the server.
async function pull(job) {
    const db = new (open(job.folder))("bench");
    await db.info();
    const started = process.hrtime.bigint();
    await PouchDB.replicate(job.url, db, BATCH);
    emit({ seconds: Number(process.hrtime.bigint() - started) / 1e9, records: (await db.info()).doc_count });
}

// What was saved here while no server was known goes to it.
async function push(job) {
    const db = new (open(job.folder))("bench");
    await fill(db, job.file);
    const started = process.hrtime.bigint();
    await PouchDB.replicate(db, job.url, BATCH);
    emit({ seconds: Number(process.hrtime.bigint() - started) / 1e9 });
}

// Follows the server and reads each reading as soon as the local copy tells of it.
async function follow(job) {
    const db = new (open(job.folder))("bench");
    const latencies = [];
    await PouchDB.replicate(job.url, db);
    PouchDB.replicate(job.url, db, { live: true, retry: true });
    db.changes({ live: true, since: "now" }).on("change", async (change) => {
        const doc = await db.get(change.id);
        if (!doc.saved_ns) return;
        latencies.push(Number(process.hrtime.bigint() - BigInt(doc.saved_ns)) / 1e6);
        if (latencies.length === job.saves) emit({ latencies_ms: latencies });
    });
    emit({ ready: true });
}

const JOBS = { server, pull, push, follow };

(async () => {
    const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
    const job = JSON.parse((await lines.next()).value);
    await JOBS[job.job](job, lines);
    await lines.next();
    process.exit(0);
})().catch((error) => {
    console.error(error);
    process.exit(1);
});
