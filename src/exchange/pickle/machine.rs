//! The stack machine. Its stack holds references; whatever it makes lies in one list.

use std::collections::HashMap;

use super::super::globals::{Kind, kind};
use super::{Object, Ref, Storage, View, shown};

/// Objects of a pickle.
const MAX_OBJECTS: usize = 1 << 20;

/// Letters of the name of a class, a function or a storage.
const MAX_NAME: usize = 256;

/// Axes of a tensor.
const MAX_AXES: usize = 16;

/// Arguments of a call that are looked at.
const ARGUMENTS: usize = 4;

/// Newest version of the protocol.
const PROTOCOL: u8 = 5;

/// The stack machine.
pub struct Machine<'a> {
    bytes: &'a [u8],
    /// The next byte.
    at: usize,
    objects: Vec<Object>,
    stack: Vec<Ref>,
    /// Heights of the stack where a group of arguments begins.
    marks: Vec<usize>,
    memo: HashMap<usize, Ref>,
    /// Entries of dicts that were copied.
    copied: usize,
}

type Step<T = ()> = Result<T, String>;

impl<'a> Machine<'a> {
    pub fn new(bytes: &'a [u8]) -> Machine<'a> {
        let (objects, stack, marks) = (Vec::new(), Vec::new(), Vec::new());
        Machine { bytes, at: 0, objects, stack, marks, memo: HashMap::new(), copied: 0 }
    }

    /// Runs the program: all objects, and the one that it leaves. Error: one sentence, with the byte at
    /// which it stopped.
    pub fn run(mut self) -> Step<(Vec<Object>, Ref)> {
        let root = self.steps().map_err(|problem| {
            format!("{problem} (at byte {} of its pickle)", self.at.saturating_sub(1))
        })?;
        Ok((self.objects, root))
    }

    fn steps(&mut self) -> Step<Ref> {
        loop {
            let opcode = self.byte()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Step {
        if self.stack.len().max(self.marks.len()).max(self.memo.len()) > MAX_OBJECTS {
            return Err(format!("it keeps more than {MAX_OBJECTS} things in mind"));
        }
        match opcode {
            0x80 | 0x95 => self.framing(opcode),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'1' => self.group().map(drop),
            b'2' => self.top().map(|top| self.stack.push(top)),
            b'N' => self.push(Object::None),
            0x88 | 0x89 => self.push(Object::Bool(opcode == 0x88)),
            b'J' | b'K' | b'M' | 0x8a | 0x8b | b'G' => self.number(opcode),
            b'X' | 0x8c | 0x8d => self.text(opcode),
            b'B' | b'C' | 0x8e | 0x96 => self.blob(opcode),
            b')' | b't' | 0x85..=0x87 => self.tuple(opcode),
            b']' | b'l' | 0x8f | 0x91 | b'a' | b'e' | 0x90 => self.list(opcode),
            b'}' | b'd' | b's' | b'u' => self.dict(opcode),
            b'c' | 0x93 => self.global(opcode),
            b'R' | 0x81 | 0x92 => self.call(opcode),
            b'b' => self.build(),
            b'Q' => self.persistent(),
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memo(opcode),
            _ => Err(format!("it has the opcode {}, which no weights need", name_of(opcode))),
        }
    }

    /// Version of the protocol, and lengths of its frames.
    fn framing(&mut self, opcode: u8) -> Step {
        if opcode == 0x80 {
            let version = self.byte()?;
            if version > PROTOCOL {
                return Err(format!(
                    "it has version {version} of the protocol ({PROTOCOL} at most)"
                ));
            }
            return Ok(());
        }
        let length = self.size(8)?;
        let left = self.bytes.len() - self.at;
        if length > left {
            return Err(format!("a frame of {length} bytes is declared, but {left} are left"));
        }
        Ok(())
    }

    fn number(&mut self, opcode: u8) -> Step {
        let object = match opcode {
            b'J' => Object::Int(i32::from_le_bytes(self.array()?).into()),
            b'K' => Object::Int(self.byte()?.into()),
            b'M' => Object::Int(u16::from_le_bytes(self.array()?).into()),
            b'G' => Object::Float(f64::from_be_bytes(self.array()?)),
            _ => self.long(if opcode == 0x8a { 1 } else { 4 })?,
        };
        self.push(object)
    }

    /// A whole number of any length; one that does not fit is of no use here.
    fn long(&mut self, prefix: usize) -> Step<Object> {
        let length = self.size(prefix)?;
        let bytes = self.take(length)?;
        if length > size_of::<i64>() {
            return Ok(Object::Other);
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut all = [if negative { 0xff } else { 0 }; size_of::<i64>()];
        all[..length].copy_from_slice(bytes);
        Ok(Object::Int(i64::from_le_bytes(all)))
    }

    fn text(&mut self, opcode: u8) -> Step {
        let length = self.size(match opcode {
            0x8c => 1,
            b'X' => 4,
            _ => 8,
        })?;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| "it has a text that is not UTF-8")?;
        self.push(Object::Text(text.to_owned()))
    }

    fn blob(&mut self, opcode: u8) -> Step {
        let length = self.size(match opcode {
            b'C' => 1,
            b'B' => 4,
            _ => 8,
        })?;
        self.take(length)?;
        self.push(Object::Other)
    }

    fn tuple(&mut self, opcode: u8) -> Step {
        let items = match opcode {
            b')' => Vec::new(),
            b't' => self.group()?,
            _ => self.pop_many(usize::from(opcode - 0x84))?,
        };
        self.push(Object::Tuple(items))
    }

    /// Lists and sets, and what is put into them.
    fn list(&mut self, opcode: u8) -> Step {
        let items = match opcode {
            b']' | 0x8f => return self.push(Object::List(Vec::new())),
            b'l' | 0x91 => {
                let items = self.group()?;
                return self.push(Object::List(items));
            }
            b'a' => vec![self.pop()?],
            _ => self.group()?,
        };
        let list = self.top()?;
        match &mut self.objects[list.0] {
            Object::List(there) => there.extend(items),
            // A list of a class of its own: what is in it is not looked at.
            Object::Opaque { .. } => {}
            other => return Err(format!("something is appended to {}", describe(other))),
        }
        Ok(())
    }

    fn dict(&mut self, opcode: u8) -> Step {
        let items = match opcode {
            b'}' => return self.push(Object::Dict(Vec::new())),
            b's' => self.pop_many(2)?,
            _ => self.group()?,
        };
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("a key has no value".into());
        }
        let pairs: Vec<(Ref, Ref)> = pairs.iter().map(|&[key, value]| (key, value)).collect();
        if opcode == b'd' {
            return self.push(Object::Dict(pairs));
        }
        let dict = self.top()?;
        match &mut self.objects[dict.0] {
            Object::Dict(there) | Object::Opaque { items: there, .. } => there.extend(pairs),
            other => return Err(format!("an entry is put into {}", describe(other))),
        }
        Ok(())
    }

    /// The name of a class or function: known, let pass, or refused.
    fn global(&mut self, opcode: u8) -> Step {
        let [module, name] = if opcode == b'c' {
            [self.line()?.to_owned(), self.line()?.to_owned()]
        } else {
            let parts = self.pop_many(2)?;
            let text = |at: Ref| match &self.objects[at.0] {
                Object::Text(text) => Ok(text.clone()),
                _ => Err("a class or function is named by something that is no text"),
            };
            [text(parts[0])?, text(parts[1])?]
        };
        let known = module.len() + name.len() < MAX_NAME;
        let Some(kind) = kind(&module, &name).filter(|_| known) else {
            let name = shown(&format!("{module}.{name}"));
            return Err(format!("it asks for `{name}`, which no weights need; nothing was called"));
        };
        let name = format!("{module}.{name}");
        self.push(Object::Global { name, kind })
    }

    /// A function applied to arguments, or an object made of a class.
    fn call(&mut self, opcode: u8) -> Step {
        if opcode == 0x92 {
            // Arguments by name: of no interest, as the object is opaque.
            self.pop()?;
        }
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Object::Tuple(arguments) = &self.objects[arguments.0] else {
            return Err("something is called with what is no list of arguments".into());
        };
        let arguments: Vec<Ref> = arguments.iter().take(ARGUMENTS).copied().collect();
        let Object::Global { name, kind } = &self.objects[function.0] else {
            let what = describe(&self.objects[function.0]);
            return Err(format!("{what} is called, which has no name"));
        };
        match kind {
            Kind::Tensor => self.tensor(&arguments),
            Kind::Parameter => {
                let inner = arguments.first().copied().ok_or("a parameter has no tensor")?;
                self.stack.push(inner);
                Ok(())
            }
            Kind::Dict => {
                let pairs = self.pairs(&arguments)?;
                self.push(Object::Dict(pairs))
            }
            Kind::Storage => Err(format!("`{name}` is called, where it is only to be named")),
            Kind::Opaque => {
                self.push(Object::Opaque { class: function, items: Vec::new(), state: None })
            }
        }
    }

    /// The entries of a dict that is made of a list of pairs. They are copied, and the same list may
    /// be given a million times, so that the copies are counted.
    fn pairs(&mut self, arguments: &[Ref]) -> Step<Vec<(Ref, Ref)>> {
        let items = match arguments.first().map(|at| &self.objects[at.0]) {
            None => return Ok(Vec::new()),
            Some(Object::List(items) | Object::Tuple(items)) => items,
            Some(other) => return Err(format!("a dict is made of {}", describe(other))),
        };
        self.copied += items.len();
        if self.copied > MAX_OBJECTS {
            return Err(format!("its dicts have more than {MAX_OBJECTS} entries"));
        }
        let pair = |at: &Ref| match &self.objects[at.0] {
            Object::List(pair) | Object::Tuple(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            other => Err(format!("an entry of a dict is {}", describe(other))),
        };
        items.iter().map(pair).collect()
    }

    /// A tensor: storage, offset, shape and strides; what follows them does not matter here.
    fn tensor(&mut self, arguments: &[Ref]) -> Step {
        let &[storage, offset, shape, strides] = arguments else {
            return Err("a tensor is made of fewer than 4 arguments".into());
        };
        if !matches!(self.objects[storage.0], Object::Storage(_)) {
            let what = describe(&self.objects[storage.0]);
            return Err(format!("a tensor has {what} for a storage"));
        }
        let offset = self.count(offset)?;
        let (shape, strides) = (self.counts(shape)?, self.counts(strides)?);
        if shape.len() != strides.len() {
            let [axes, steps] = [shape.len(), strides.len()];
            return Err(format!("a tensor of {axes} axes has {steps} strides"));
        }
        self.push(Object::Tensor(View { storage, offset, shape, strides }))
    }

    fn count(&self, at: Ref) -> Step<usize> {
        match self.objects[at.0] {
            Object::Int(number) => {
                usize::try_from(number).map_err(|_| format!("a tensor has {number} for a size"))
            }
            ref other => Err(format!("a tensor has {} for a size", describe(other))),
        }
    }

    fn counts(&self, at: Ref) -> Step<Vec<usize>> {
        match &self.objects[at.0] {
            Object::Tuple(items) | Object::List(items) if items.len() <= MAX_AXES => {
                items.iter().map(|&item| self.count(item)).collect()
            }
            other => Err(format!("a tensor has {} for a shape", describe(other))),
        }
    }

    /// Attributes of an object. Those of dicts and tensors (versions, hooks) are left out.
    fn build(&mut self) -> Step {
        let given = self.pop()?;
        let target = self.top()?;
        match &mut self.objects[target.0] {
            Object::Opaque { state, .. } => *state = Some(given),
            Object::Dict(_) | Object::Tensor(_) => {}
            other => return Err(format!("attributes are given to {}", describe(other))),
        }
        Ok(())
    }

    /// A reference to numbers beside the pickle: ('storage', class, key, device, length).
    fn persistent(&mut self) -> Step {
        const WRONG: &str = "a reference to a storage is not what torch writes";
        let id = self.pop()?;
        let Object::Tuple(parts) = &self.objects[id.0] else { return Err(WRONG.into()) };
        let parts: Vec<&Object> = parts.iter().map(|at| &self.objects[at.0]).collect();
        let [
            Object::Text(what),
            Object::Global { name, kind },
            Object::Text(key),
            _,
            Object::Int(len),
        ] = parts.as_slice()
        else {
            return Err(WRONG.into());
        };
        let len = usize::try_from(*len).map_err(|_| WRONG)?;
        if what != "storage" || *kind != Kind::Storage || key.len() > MAX_NAME {
            return Err(WRONG.into());
        }
        let class = name.rsplit('.').next().unwrap_or_default().to_owned();
        let key = key.clone();
        self.push(Object::Storage(Storage { class, key, len }))
    }

    fn memo(&mut self, opcode: u8) -> Step {
        let index = match opcode {
            b'q' | b'h' => self.size(1)?,
            b'r' | b'j' => self.size(4)?,
            _ => self.memo.len(),
        };
        if matches!(opcode, b'h' | b'j') {
            let found = self.memo.get(&index).copied();
            self.stack
                .push(found.ok_or(format!("it recalls object {index}, which it never kept"))?);
        } else {
            let top = self.top()?;
            self.memo.insert(index, top);
        }
        Ok(())
    }

    fn push(&mut self, object: Object) -> Step {
        if self.objects.len() >= MAX_OBJECTS {
            return Err(format!("it has more than {MAX_OBJECTS} objects"));
        }
        self.objects.push(object);
        self.stack.push(Ref(self.objects.len() - 1));
        Ok(())
    }

    /// Arguments do not reach below the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Step<Ref> {
        let above = &self.stack[self.floor()..];
        above.last().copied().ok_or_else(|| "an argument is missing".into())
    }

    fn pop(&mut self) -> Step<Ref> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, count: usize) -> Step<Vec<Ref>> {
        let first = self.stack.len().checked_sub(count).filter(|&first| first >= self.floor());
        Ok(self.stack.split_off(first.ok_or("an argument is missing")?))
    }

    /// Everything down to the last mark.
    fn group(&mut self) -> Step<Vec<Ref>> {
        let first = self.marks.pop().ok_or("a group of arguments has no beginning")?;
        Ok(self.stack.split_off(first))
    }

    fn byte(&mut self) -> Step<u8> {
        Ok(self.take(1)?[0])
    }

    fn array<const L: usize>(&mut self) -> Step<[u8; L]> {
        Ok(self.take(L)?.try_into().expect("as many as were asked for"))
    }

    /// A length or index of `width` bytes.
    fn size(&mut self, width: usize) -> Step<usize> {
        let mut all = [0; size_of::<u64>()];
        all[..width].copy_from_slice(self.take(width)?);
        usize::try_from(u64::from_le_bytes(all)).map_err(|_| "a length is too large".into())
    }

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let left = &self.bytes[self.at..];
        let Some(taken) = left.get(..count) else {
            let left = left.len();
            self.at = self.bytes.len();
            return Err(format!("it is cut short: {count} bytes are needed, {left} are left"));
        };
        self.at += count;
        Ok(taken)
    }

    /// Text up to the end of the line.
    fn line(&mut self) -> Step<&'a str> {
        let left = &self.bytes[self.at..];
        let end = left.iter().position(|&byte| byte == b'\n').ok_or("it is cut short in a name")?;
        self.at += end + 1;
        std::str::from_utf8(&left[..end]).map_err(|_| "it has a name that is not UTF-8".into())
    }
}

fn describe(object: &Object) -> String {
    match object {
        Object::None => "nothing".into(),
        Object::Bool(_) | Object::Int(_) | Object::Float(_) => "a number".into(),
        Object::Text(_) => "a text".into(),
        Object::Other => "bytes or a large number".into(),
        Object::Tuple(_) => "a tuple".into(),
        Object::List(_) => "a list".into(),
        Object::Dict(_) => "a dict".into(),
        Object::Global { name, .. } => format!("the class or function `{}`", shown(name)),
        Object::Storage(_) => "a storage".into(),
        Object::Tensor(_) => "a tensor".into(),
        Object::Opaque { .. } => "an object of another class".into(),
    }
}

/// Python's name of an opcode that is refused.
fn name_of(opcode: u8) -> String {
    let name = match opcode {
        b'F' => "FLOAT",
        b'I' => "INT",
        b'L' => "LONG",
        b'S' => "STRING",
        b'T' => "BINSTRING",
        b'U' => "SHORT_BINSTRING",
        b'V' => "UNICODE",
        b'P' => "PERSID",
        b'g' => "GET",
        b'p' => "PUT",
        b'i' => "INST",
        b'o' => "OBJ",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        _ => return format!("0x{opcode:02x}"),
    };
    name.into()
}
