//! Files that want to run something, lie about their sizes, or are damaged: one error each, nothing
//! executed, nothing filled.

use std::path::Path;

use ptycho_gpu::exchange::import::{Options, import};
use ptycho_gpu::exchange::pickle::Tree;
use ptycho_gpu::exchange::weights::Weights;
use ptycho_gpu::random::{Purpose, Stream};
use zip::CompressionMethod;

use super::torch::{archive, file, tensor, text};
use super::{fixture, refusal};

/// The error of a file with this pickle.
fn of_pickle(pickle: &[u8]) -> String {
    refusal(&file(pickle, &[vec![0; 16]]))
}

/// `X` and the text.
fn x(word: &str) -> Vec<u8> {
    let mut opcodes = Vec::new();
    text(&mut opcodes, word);
    opcodes
}

#[test]
fn a_pickle_that_wants_to_run_something_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("ran");
    let command = x(&format!("touch {}", marker.display()));
    let reduce = |global: &[u8]| [b"\x80\x02", global, b"(", &command, b"tR."].concat();
    let stack = |module: &str, name: &str| [x(module), x(name), b"\x93".to_vec()].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (reduce(b"cos\nsystem\n"), "`os.system`"),
        (reduce(b"cposix\nsystem\n"), "`posix.system`"),
        (reduce(b"cbuiltins\neval\n"), "`builtins.eval`"),
        (reduce(b"c__builtin__\nexec\n"), "`__builtin__.exec`"),
        (reduce(b"cbuiltins\ngetattr\n"), "`builtins.getattr`"),
        (reduce(b"csubprocess\nPopen\n"), "`subprocess.Popen`"),
        (reduce(b"ctorch.hub\nload\n"), "`torch.hub.load`"),
        (reduce(b"ctorch\nload\n"), "`torch.load`"),
        (reduce(b"cdill._dill\n_create_function\n"), "`dill._dill._create_function`"),
        (reduce(&stack("os", "system")), "`os.system`"),
        (reduce(&stack("ptycho_torch.model", "os.system")), "`ptycho_torch.model.os.system`"),
        (reduce(&stack("torch", "os.system")), "`torch.os.system`"),
        ([b"\x80\x02(", &command[..], b"ios\nsystem\n."].concat(), "INST"),
        ([b"\x80\x02(cos\nsystem\n", &command[..], b"o."].concat(), "`os.system`"),
        ([b"\x80\x02(N", &command[..], b"o."].concat(), "OBJ"),
        (b"\x80\x02cos\nsystem\n)\x81.".to_vec(), "`os.system`"),
        (b"\x80\x04cos\nsystem\n)}\x92.".to_vec(), "`os.system`"),
        (b"\x80\x02ccollections\nOrderedDict\n}b.".to_vec(), "attributes are given to the class"),
        ([b"\x80\x02", &command[..], b"(N", &command[..], b"tR."].concat(), "a text is called"),
        (b"\x80\x02\x82\x01.".to_vec(), "EXT1"),
        (b"\x80\x02Pos.system\n.".to_vec(), "PERSID"),
        (b"\x80\x05\x97.".to_vec(), "NEXT_BUFFER"),
        (b"\x80\x02Vtext\n.".to_vec(), "UNICODE"),
        (b"\x80\x02\xff.".to_vec(), "0xff"),
    ];
    for (pickle, name) in cases {
        let message = of_pickle(&pickle);
        assert!(message.contains(name), "no {name} in: {message}");
    }
    assert!(!marker.exists(), "nothing was run");
}

#[test]
fn a_class_that_is_let_pass_is_not_made() {
    // What a real attack would do with attributes of an object that unpickles itself.
    let pickle = b"\x80\x02cptycho_torch.config\nModelConfig\n)\x81}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsb.";
    assert!(of_pickle(pickle).contains("`os.system`"));
    let harmless = b"\x80\x02cptycho_torch.config\nModelConfig\n)\x81}b.";
    assert!(of_pickle(harmless).contains("no tensors by name"));
}

#[test]
fn pickles_that_contradict_themselves_are_refused() {
    for (pickle, word) in [
        (&b"\x80\x02"[..], "cut short"),
        (b"", "cut short"),
        (b"\x80\x09.", "version 9"),
        (b".", "an argument is missing"),
        (b"t.", "no beginning"),
        (b"(0.", "an argument is missing"),
        (b"(N(\x87.", "an argument is missing"),
        (b"h\x07.", "object 7, which it never kept"),
        (b"}(Nu.", "a key has no value"),
        (b"NNs.", "an argument is missing"),
        (b"NNNs.", "an entry is put into nothing"),
        (b"NNa.", "something is appended to nothing"),
        (b"NQ.", "what torch writes"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "fewer than 4"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNtR.", "has nothing for a storage"),
        (b"ctorch\nFloatStorage\n)R.", "only to be named"),
        (b"ctorch\nFloatStorage", "cut short in a name"),
        (b"X\x04\x00\x00\x00\xff\xff\xff\xff.", "not UTF-8"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "a frame of"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "cut short"),
        (b"\x8b\xff\xff\xff\xff.", "cut short"),
    ] {
        let message = of_pickle(pickle);
        assert!(message.contains(word), "no {word} in: {message}");
        assert!(message.contains("at byte"), "{message}");
    }
}

#[test]
fn objects_that_hold_themselves_do_no_harm() {
    // A dict under its own key, and a list in itself.
    assert!(of_pickle(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.").contains("no tensors by name"));
    assert!(of_pickle(b"\x80\x02]q\x00h\x00a.").contains("no tensors by name"));
    // `state_dict` that is the dict it stands in.
    let loop_ = [b"\x80\x02}q\x00", &x("state_dict")[..], b"h\x00s."].concat();
    assert!(of_pickle(&loop_).contains("no tensors by name"));
    // Lists of lists, each a thousand times in the next: 10^15 if it were written out.
    let mut pickle = b"\x80\x02]".to_vec();
    for level in 0..5u8 {
        pickle.extend([b'q', level, b'0', b']', b'(']);
        (0..1000).for_each(|_| pickle.extend([b'h', level]));
        pickle.push(b'e');
    }
    pickle.push(b'.');
    assert!(of_pickle(&pickle).contains("no tensors by name"));
}

#[test]
fn pickles_that_grow_are_stopped() {
    let many = |opcodes: &[u8], times: usize| opcodes.repeat(times);
    let all = [
        many(b"N", 3 << 20),
        many(b"(", 3 << 20),
        [b"N".to_vec(), many(b"2", 3 << 20)].concat(),
        [b"N".to_vec(), many(b"\x94", 3 << 20)].concat(),
        // The same list of a thousand pairs made a dict again and again.
        [
            b"](".to_vec(),
            many(b"NN\x86", 1000),
            b"e\x85q\x000".to_vec(),
            many(b"ccollections\nOrderedDict\nh\x00R0", 2000),
        ]
        .concat(),
    ];
    for pickle in all {
        let message = Tree::read(&[&pickle[..], b"."].concat()).unwrap_err();
        assert!(message.contains("more than"), "{message}");
    }
    assert!(Tree::read(&vec![b'N'; 20 << 20]).unwrap_err().contains("at most"));
}

#[test]
fn archives_that_grow_are_refused_before_they_are_read() {
    let zeros = vec![0; 64 << 20];
    let members: [(&str, &[u8]); 2] = [("a/data.pkl", b"\x80\x02}."), ("a/data/0", &zeros)];
    let message = refusal(&archive(&members, CompressionMethod::Deflated));
    assert!(message.contains("which") && message.contains("cannot mean"), "{message}");
    // The directory says less than the member holds.
    let mut lies = archive(&[("a/data.pkl", &zeros[..1 << 20])], CompressionMethod::Deflated);
    let size = ((1 << 20) as u32).to_le_bytes();
    let at = lies.windows(4).rposition(|four| four == size).unwrap();
    lies[at..at + 4].copy_from_slice(&8u32.to_le_bytes());
    assert!(!refusal(&lies).is_empty());
}

/// The numbers of one tensor in a storage of 0, 1, 2, …, 6 that declares `len` of them.
fn view(
    len: usize,
    offset: usize,
    shape: &[usize],
    strides: &[usize],
) -> ptycho_gpu::Result<Vec<f32>> {
    let mut pickle = [b"\x80\x02}", &x("a.weight")[..]].concat();
    tensor(&mut pickle, "0", len, offset, shape, strides);
    pickle.extend(b"s.");
    let numbers = (0..7).flat_map(|number| (number as f32).to_le_bytes()).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pt");
    std::fs::write(&path, file(&pickle, &[numbers])).unwrap();
    Weights::open(&path).unwrap().numbers("a.weight")
}

#[test]
fn strides_and_offset_say_where_the_numbers_are() {
    for (offset, shape, strides, want) in [
        (1, &[2, 3][..], &[3, 1][..], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0][..]),
        (0, &[3, 2], &[1, 3], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
        (5, &[], &[], &[5.0]),
        (9, &[0, 4], &[4, 1], &[]),
        (6, &[2, 2], &[0, 0], &[6.0; 4]),
    ] {
        assert_eq!(view(7, offset, shape, strides).unwrap(), want, "{shape:?} by {strides:?}");
    }
}

#[test]
fn tensors_that_reach_beyond_their_storage_are_refused() {
    const FAR: usize = usize::MAX >> 1;
    for (len, offset, shape, strides, word) in [
        (7, 2, [2, 3], [3, 1], "beyond the 7 numbers"),
        (4, 1, [2, 2], [2, 1], "beyond the 4 numbers"),
        (7, FAR, [2, 2], [1, 1], "beyond the 7 numbers"),
        (7, 0, [2, 2], [FAR, 1], "beyond the 7 numbers"),
        (7, 0, [FAR, FAR], [0, 0], "entries"),
        (7, 0, [1 << 20, 1 << 20], [0, 0], "entries"),
        (1 << 40, 0, [2, 2], [2, 1], "declares"),
        (FAR, 0, [2, 2], [2, 1], "too large"),
    ] {
        let message = view(len, offset, &shape, &strides).unwrap_err().to_string();
        assert!(message.contains("`a.weight`") && message.contains(word), "{message}");
    }
}

/// Opens and imports; panics are what is looked for. Gives the error, where there is one.
fn attempt(folder: &Path, bytes: &[u8]) -> Option<String> {
    let path = folder.join("w.ckpt");
    std::fs::write(&path, bytes).unwrap();
    let options = Options { input_scale: Some(1.0), ..Options::default() };
    let done = Weights::open(&path).and_then(|mut weights| import(&mut weights, &options));
    done.err().map(|error| error.to_string())
}

#[test]
fn a_checkpoint_cut_short_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = fixture("attention.ckpt");
    assert_eq!(attempt(folder.path(), &whole), None);
    for length in (0..whole.len()).step_by(7) {
        let message = attempt(folder.path(), &whole[..length]);
        assert!(message.is_some_and(|message| message.contains("w.ckpt")), "{length} bytes");
    }
}

#[test]
fn a_pickle_cut_short_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = pickle_of("attention.ckpt");
    for length in (0..whole.len()).step_by(7) {
        let message = attempt(folder.path(), &file(&whole[..length], &[])).unwrap_or_default();
        assert!(message.contains("cut short"), "{length} bytes: {message}");
    }
}

#[test]
fn thousands_of_damaged_checkpoints_give_one_error_each_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let (mut stream, mut refused) = (Stream::new(11, Purpose::Noise, 0), 0);
    let mut below = |most: usize| (stream.uniform() * most as f64) as usize;
    let (whole, pickle) = (fixture("attention.ckpt"), pickle_of("attention.ckpt"));
    for round in 0..3000 {
        let mut bytes = if round % 2 == 0 { whole.clone() } else { pickle.clone() };
        for _ in 0..=below(4) {
            let at = below(bytes.len());
            bytes[at] = below(256) as u8;
        }
        let bytes = if round % 2 == 0 { bytes } else { file(&bytes, &[]) };
        if let Some(message) = attempt(folder.path(), &bytes) {
            assert_eq!(message.lines().count(), 1, "{message}");
            refused += 1;
        }
    }
    assert!(refused > 1500, "every damaged pickle has lost its storages: {refused}");
}

/// `data.pkl` of a fixture.
fn pickle_of(name: &str) -> Vec<u8> {
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(fixture(name))).unwrap();
    let at = (0..archive.len())
        .find(|&at| archive.by_index(at).unwrap().name().ends_with("/data.pkl"))
        .unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut archive.by_index(at).unwrap(), &mut bytes).unwrap();
    bytes
}
