//! report.html: it needs nothing else, says what the run said, and cannot be made to say anything more.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use assert_cmd::Command;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use predicates::prelude::*;
use predicates::str::contains;
use ptycho_gpu::reconstruction::Saved;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A name that would be markup, if it were not escaped.
const HOSTILE: &str = "a<img src=x onerror=alert(1)>&\"'{{script}}.npz";

fn program() -> Command {
    Command::cargo_bin("ptycho-gpu").expect("the binary")
}

/// A scan of 36 patterns of 64 × 64 pixels with a hostile name, and the runs that it was used in.
struct Runs {
    folder: TempDir,
}

impl Runs {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn page(&self, run: &str) -> String {
        fs::read_to_string(self.path(run).join("report.html")).unwrap()
    }

    fn record(&self, run: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(run).join("run.json")).unwrap()).unwrap()
    }
}

fn runs() -> &'static Runs {
    static RUNS: LazyLock<Runs> = LazyLock::new(|| {
        let runs = Runs { folder: tempfile::tempdir().unwrap() };
        let scan = runs.path(HOSTILE);
        let recipe =
            ["--side=64", "--patterns=36", "--step=5", "--probe-diameter=20", "--photons=1e5"];
        program()
            .arg("simulate")
            .arg(&scan)
            .args(recipe)
            .args(["--probe=gaussian"])
            .assert()
            .success();
        let run = |command: &str, first: &[&Path], folder: &str, more: &[&str]| {
            let mut program = program();
            program.arg(command).args(first).arg("--output-dir").arg(runs.path(folder));
            program.args(["--device=cpu", "--quiet"]).args(more).assert().success();
        };
        run("reconstruct", &[&scan], "solved", &["--epochs=3", "--frc", "--modes=2"]);
        run(
            "refine",
            &[&runs.path("solved"), &scan],
            "refined",
            &["--epochs=2", "--refine-positions"],
        );
        let flag = Path::new("--train-data-file");
        let small = ["--max-epochs=2", "--n-images=8", "--batch-size=4", "--n-filters-scale=1"];
        run("train", &[flag, &scan], "trained", &small);
        let from =
            [Path::new("--model-path"), &runs.path("trained"), Path::new("--test-data"), &scan];
        run("infer", &from, "inferred", &[]);
        runs
    });
    &RUNS
}

const PAGES: [&str; 4] = ["solved", "refined", "trained", "inferred"];

/// A start tag with its attributes.
#[derive(Debug)]
struct Tag {
    name: String,
    attributes: Vec<(String, String)>,
}

impl Tag {
    fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// The start tags of a page, whose elements are closed in order; panics where they are not.
fn parse(page: &str) -> Vec<Tag> {
    let (mut tags, mut open, mut rest) = (Vec::new(), Vec::<String>::new(), page);
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if rest.starts_with('!') {
            rest = &rest[rest.find('>').unwrap()..];
            continue;
        }
        if let Some(end) = rest.strip_prefix('/') {
            let (name, after) = end.split_once('>').unwrap();
            assert_eq!(
                open.pop().as_deref(),
                Some(name),
                "before {}",
                &after[..after.len().min(80)]
            );
            rest = after;
            continue;
        }
        let (tag, alone, after) = start(rest);
        let void = ["meta", "link", "img", "input"].contains(&tag.name.as_str());
        rest = after;
        if ["style", "script"].contains(&tag.name.as_str()) {
            rest = &rest[rest.find(&format!("</{}>", tag.name)).unwrap()..];
        }
        if !void && !alone {
            open.push(tag.name.clone());
        }
        tags.push(tag);
    }
    assert!(open.is_empty(), "left open: {open:?}");
    tags
}

/// A start tag without its `<`, whether it closes itself, and what follows.
fn start(text: &str) -> (Tag, bool, &str) {
    let letters = |c: char| c.is_ascii_alphanumeric() || "-:".contains(c);
    let end = text.find(|c| !letters(c)).unwrap();
    let mut tag = Tag { name: text[..end].into(), attributes: Vec::new() };
    assert!(end > 0, "`<` that begins no tag: {}", &text[..text.len().min(60)]);
    let mut rest = text[end..].trim_start();
    loop {
        if let Some(after) = rest.strip_prefix("/>") {
            return (tag, true, after);
        }
        if let Some(after) = rest.strip_prefix('>') {
            return (tag, false, after);
        }
        let end = rest.find(|c| !letters(c)).unwrap();
        assert!(end > 0, "no attribute: {}", &rest[..rest.len().min(60)]);
        let name = rest[..end].to_string();
        rest = &rest[end..];
        let mut value = "";
        if let Some(quoted) = rest.strip_prefix("=\"") {
            (value, rest) = quoted.split_once('"').unwrap();
        }
        tag.attributes.push((name, value.into()));
        rest = rest.trim_start();
    }
}

fn between<'a>(page: &'a str, from: &str, to: &str) -> &'a str {
    let start = page.find(from).unwrap() + from.len();
    &page[start..start + page[start..].find(to).unwrap()]
}

fn data(page: &str) -> Value {
    let text = between(page, "<script type=\"application/json\" id=\"data\">", "</script>");
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_page_is_whole_and_asks_for_nothing() {
    for run in PAGES {
        let page = runs().page(run);
        let tags = parse(&page);
        for tag in &tags {
            for name in ["src", "href", "action", "srcset", "poster", "data"] {
                let Some(value) = tag.get(name) else { continue };
                assert!(value.starts_with("data:") || value.starts_with('#'), "{run}: {tag:?}");
            }
            let active = tag.attributes.iter().any(|(n, _)| n.starts_with("on") || n == "style");
            assert!(!active, "{run}: {tag:?}");
        }
        let lower = page.to_lowercase();
        for word in
            ["<iframe", "<object", "<embed", "@import", "url(http", "fetch(", "xmlhttprequest"]
        {
            assert!(!lower.contains(word), "{run}: {word}");
        }
        let titles = tags.iter().filter(|tag| tag.name == "h1").count();
        assert_eq!(titles, 1, "{run}");
    }
}

#[test]
fn the_policy_lets_in_the_style_and_the_script_of_the_page_and_no_others() {
    for run in PAGES {
        let page = runs().page(run);
        let tags = parse(&page);
        let policy =
            tags.iter().find(|tag| tag.get("http-equiv") == Some("Content-Security-Policy"));
        let policy = policy.unwrap().get("content").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(
            !policy.contains("unsafe") && !policy.contains("http") && !policy.contains("connect")
        );
        let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
        assert!(
            policy.contains(&format!("style-src {}", hash(between(&page, "<style>", "</style>"))))
        );
        assert!(
            policy
                .contains(&format!("script-src {}", hash(between(&page, "<script>", "</script>"))))
        );
        assert_eq!(tags.iter().filter(|tag| tag.name == "script").count(), 2, "{run}");
    }
}

#[test]
fn it_holds_what_the_record_says() {
    let cell = |value: &Value| format!("<td>{}</td>", value.to_string().trim_matches('"'));
    for run in PAGES {
        let (page, record) = (runs().page(run), runs().record(run));
        assert!(page.contains(&cell(&record["inputs"][0]["sha256"])), "{run}");
        assert!(page.contains(&cell(&record["version"])), "{run}");
    }
    let (page, record) = (runs().page("solved"), runs().record("solved"));
    for value in [
        &record["results"]["data_space"]["residual"],
        &record["results"]["data_space"]["r_factor"],
        &record["results"]["half_data_frc"]["ring"],
        &record["options"]["rates"]["object"],
    ] {
        assert!(value.is_number() && page.contains(&cell(value)), "{value}");
    }
    let (page, record) = (runs().page("trained"), runs().record("trained"));
    let training = &record["results"]["training"];
    assert!(page.contains(&cell(&training["train_loss"])));
    assert!(page.contains(&cell(&training["weights_sha256"])));
    let word = training["verdict"].as_str().unwrap();
    assert!(page.contains(&format!("</span> {word}</strong>")), "{word}");
    assert!(page.contains(
        "<tr class=\"set\"><th scope=\"row\">max epochs</th><td>2</td><td>flag</td></tr>"
    ));
    assert!(page.contains("<tr><th scope=\"row\">gridsize</th><td>1</td><td>default</td></tr>"));
}

#[test]
fn sections_are_those_of_the_run() {
    let has = |run: &str, id: &str| runs().page(run).contains(&format!("<section id=\"{id}\""));
    for (run, ids) in [
        (
            "solved",
            ["object", "probe", "positions", "patterns", "residual", "resolution"].as_slice(),
        ),
        ("refined", &["object", "comparison", "probe", "positions", "patterns", "training"]),
        ("inferred", &["object", "consistency", "probe", "patterns", "residual"]),
        ("trained", &["training", "figures", "inputs", "configuration", "record"]),
    ] {
        ids.iter().for_each(|id| assert!(has(run, id), "{run}: {id}"));
    }
    assert!(
        !has("solved", "comparison") && !has("trained", "object") && !has("inferred", "training")
    );
    assert!(runs().page("refined").contains("type=\"range\""));
}

#[test]
fn a_hostile_name_stays_a_name() {
    for run in PAGES {
        let page = runs().page(run);
        let escaped = "a&lt;img src=x onerror=alert(1)&gt;&amp;&quot;&#39;{{script}}.npz";
        assert!(page.contains(&format!("<h1>{escaped}</h1>")), "{run}");
        assert!(!page.contains("<img src=x"), "{run}");
        assert!(parse(&page).iter().all(|tag| tag.get("onerror").is_none()), "{run}");
    }
}

#[test]
fn a_hostile_record_stays_text() {
    let place = tempfile::tempdir().unwrap();
    for file in ["run.json", "history.csv"] {
        fs::copy(runs().path("trained").join(file), place.path().join(file)).unwrap();
    }
    let mut record = runs().record("trained");
    let attack = "</td></script><script>alert(1)</script>";
    record["results"]["training"]["reasons"] = serde_json::json!([attack]);
    record[attack] = attack.into();
    record["configuration"][attack] = serde_json::json!({"value": attack, "origin": attack});
    fs::write(place.path().join("run.json"), record.to_string()).unwrap();
    program().arg("report").arg(place.path()).assert().success();
    let page = fs::read_to_string(place.path().join("report.html")).unwrap();
    assert_eq!(parse(&page).iter().filter(|tag| tag.name == "script").count(), 2);
    assert!(page.contains("&lt;/td&gt;&lt;/script&gt;&lt;script&gt;alert(1)"));
}

#[test]
fn every_picture_has_words_and_every_control_a_name() {
    for run in PAGES {
        for tag in parse(&runs().page(run)) {
            let named = |attribute: &str| tag.get(attribute).is_some_and(|text| text.len() > 4);
            match tag.name.as_str() {
                "img" => assert!(named("alt"), "{run}: {:?}", tag.get("alt")),
                "svg" => assert!(
                    named("aria-label") || tag.get("aria-hidden") == Some("true"),
                    "{run}: {tag:?}"
                ),
                "input" => assert!(named("aria-label"), "{run}: {tag:?}"),
                "section" => assert!(named("aria-labelledby"), "{run}: {tag:?}"),
                _ => {}
            }
        }
    }
}

/// The numbers of an array of a page.
fn numbers(array: &Value) -> Vec<f64> {
    let (low, high) = (array["low"].as_f64().unwrap(), array["high"].as_f64().unwrap());
    let bytes = STANDARD.decode(array["u16"].as_str().unwrap()).unwrap();
    let code = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]);
    let number = |code: u16| match code {
        u16::MAX => f64::NAN,
        code => low + f64::from(code) / 65534.0 * (high - low),
    };
    bytes.chunks_exact(2).map(|pair| number(code(pair))).collect()
}

#[test]
fn the_numbers_under_the_pointer_are_those_of_the_file() {
    let saved = Saved::read(&runs().path("inferred")).unwrap();
    let data = data(&runs().page("inferred"));
    let (height, width) = saved.object.dim();
    for (index, of) in [(0, (|z| z.norm()) as fn(&num_complex::Complex32) -> f32), (1, |z| z.arg())]
    {
        let array = &data["arrays"][index];
        assert_eq!(
            (array["height"].as_u64(), array["width"].as_u64()),
            (Some(height as u64), Some(width as u64))
        );
        let step = (array["high"].as_f64().unwrap() - array["low"].as_f64().unwrap()) / 65534.0;
        for ((z, weight), got) in saved.object.iter().zip(&saved.weights).zip(numbers(array)) {
            match *weight > 0.0 {
                true => assert!((got - f64::from(of(z))).abs() <= 0.51 * step, "{got} for {z}"),
                false => assert!(got.is_nan()),
            }
        }
    }
    let figure = &data["figures"][0];
    assert_eq!(figure["origin"], serde_json::json!(saved.origin_yx));
    assert_eq!(figure["layers"][1]["name"], "phase");
}

#[test]
fn the_same_folder_gives_the_same_bytes_as_the_run_itself_left() {
    let place = tempfile::tempdir().unwrap();
    for run in PAGES {
        let pages = [place.path().join("a.html"), place.path().join("b.html")];
        for page in &pages {
            let mut report = program();
            report.arg("report").arg(runs().path(run)).arg("--output").arg(page).assert().success();
        }
        let [a, b] = pages.map(|page| fs::read(page).unwrap());
        assert!(a == b && a == runs().page(run).into_bytes(), "{run}");
    }
}

#[test]
fn another_reconstruction_can_be_held_against_it() {
    let place = tempfile::tempdir().unwrap();
    let page = place.path().join("page.html");
    let compare = |other: &str| {
        let mut report = program();
        report.arg("report").arg(runs().path("solved")).arg("--compare").arg(runs().path(other));
        report.arg("--output").arg(&page).assert()
    };
    compare("inferred").success();
    let text = fs::read_to_string(&page).unwrap();
    parse(&text);
    assert!(text.contains("border between inferred and this run"));
    fs::remove_file(&page).unwrap();
    compare("trained").failure().code(1).stderr(contains("reconstruction.npz"));
    assert!(!page.exists());
}

/// What `report` says of a folder that `spoil` has spoiled.
fn refused(run: &str, spoil: impl Fn(&Path)) -> String {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("run");
    fs::create_dir(&folder).unwrap();
    for file in ["run.json", "history.csv", "reconstruction.npz"] {
        if runs().path(run).join(file).exists() {
            fs::copy(runs().path(run).join(file), folder.join(file)).unwrap();
        }
    }
    spoil(&folder);
    let said = program().arg("report").arg(&folder).assert().failure().code(1);
    assert!(!folder.join("report.html").exists());
    String::from_utf8(said.get_output().stderr.clone()).unwrap()
}

#[test]
fn a_folder_that_is_no_run_or_is_damaged_is_refused_by_name() {
    let remove =
        |name: &'static str| move |folder: &Path| fs::remove_file(folder.join(name)).unwrap();
    let write = |name: &'static str, text: &'static str| {
        move |folder: &Path| fs::write(folder.join(name), text).unwrap()
    };
    assert!(refused("solved", remove("run.json")).contains("holds no run.json"));
    assert!(refused("solved", write("run.json", "{")).contains("run.json: is no JSON"));
    assert!(refused("solved", write("run.json", "[1]")).contains("is no record of a run"));
    let other = refused("solved", write("run.json", "{\"command\": \"bench\"}"));
    assert!(other.contains("`bench`") && other.contains("train, infer"), "{other}");
    assert!(
        refused("solved", remove("reconstruction.npz")).contains("reconstruction.npz: is missing")
    );
    assert!(refused("trained", remove("history.csv")).contains("history.csv: is missing"));
    assert!(refused("trained", write("history.csv", "epoch\nx\n")).contains("is no row"));
    let cut = |folder: &Path| {
        let path = folder.join("reconstruction.npz");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    };
    assert!(refused("solved", cut).contains("reconstruction.npz"));
    let nowhere = program().arg("report").arg("no/such/folder").assert().failure().code(1);
    nowhere.stderr(contains("no/such/folder"));
}

#[test]
fn no_report_is_left_where_none_is_wanted_and_one_that_cannot_be_written_undoes_no_run() {
    let scan = runs().path(HOSTILE);
    let place = tempfile::tempdir().unwrap();
    let run = |folder: &Path, more: &[&str]| {
        let mut solve = program();
        solve.arg("reconstruct").arg(&scan).arg("--output-dir").arg(folder);
        solve.args(["--epochs=1", "--device=cpu", "--n-images=9"]).args(more).assert().success()
    };
    let plain = place.path().join("plain");
    run(&plain, &["--no-report"]);
    assert!(plain.join("run.json").exists() && !plain.join("report.html").exists());
    let blocked = place.path().join("blocked");
    fs::create_dir_all(blocked.join("report.html/full")).unwrap();
    run(&blocked, &[]).stderr(contains("no report.html").and(contains("verdict")));
    assert!(blocked.join("reconstruction.npz").exists());
}
