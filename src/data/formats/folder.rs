//! A folder of `.npz` files, the parts of one scan in the order of their names: patterns, positions and
//! what else there is one of for each pattern are put below one another; probe, mask and object are
//! those of the first part that has them, and no other part may have different ones.

use std::fs;
use std::path::{Path, PathBuf};

use ndarray::{ArrayD, Axis, concatenate};
use num_complex::Complex32;

use crate::data::archive::{Archive, Member};
use crate::data::npz::Npz;
use crate::{Error, Result};

/// Arrays that all patterns share.
const COMMON: [&str; 4] = ["probeGuess", "objectGuess", "mask", "_metadata"];

pub(super) struct Folder {
    path: PathBuf,
    parts: Vec<Npz>,
    members: Vec<Member>,
    notes: Vec<String>,
}

pub(super) fn open(path: &Path) -> Result<Folder> {
    let entries = fs::read_dir(path).map_err(Error::io("read", path))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(Error::io("read", path))?.path();
        if file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npz")) {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Error::input(
            path,
            "is a folder without .npz files: expected the parts of a scan",
        ));
    }
    let parts = files.iter().map(Npz::open).collect::<Result<Vec<Npz>>>()?;
    let mut members: Vec<Member> = Vec::new();
    // Single numbers have no meaning for us.
    let arrays =
        |member: &&Member| COMMON.contains(&member.name.as_str()) || !member.shape.is_empty();
    for member in parts.iter().flat_map(Npz::members).filter(arrays) {
        if !members.iter().any(|known| known.name == member.name) {
            members.push(together(path, &parts, member)?);
        }
    }
    let notes = vec![format!("the scan is in {} parts", parts.len())];
    let mut folder = Folder { path: path.into(), parts, members, notes };
    folder.check_common()?;
    Ok(folder)
}

/// What a member of one part is in the whole.
fn together(path: &Path, parts: &[Npz], member: &Member) -> Result<Member> {
    let name = &member.name;
    if COMMON.contains(&name.as_str()) {
        return Ok(member.clone());
    }
    let mut whole = member.clone();
    let mut count = 0;
    for part in parts {
        let Some(here) = part.find(name) else {
            let problem = format!("`{name}` is missing, other parts in {} have it", path.display());
            return Err(Error::input(part.path(), problem));
        };
        if here.shape.get(1..) != member.shape.get(1..) || here.dtype != member.dtype {
            let problem = format!(
                "`{name}` is {} of shape {:?}, in another part {} of {:?}: only the first axis may \
                 differ",
                here.dtype, here.shape, member.dtype, member.shape
            );
            return Err(Error::input(part.path(), problem));
        }
        count += here.shape[0];
    }
    whole.shape[0] = count;
    Ok(whole)
}

impl Folder {
    /// Parts with another probe are other scans.
    fn check_common(&mut self) -> Result<()> {
        for name in ["probeGuess", "mask", "objectGuess"] {
            let mut first: Option<ArrayD<Complex32>> = None;
            for part in &mut self.parts {
                if part.find(name).is_none() {
                    continue;
                }
                let here = part.c64(name)?;
                match &first {
                    Some(first) if *first != here => {
                        let problem = format!(
                            "`{name}` is not that of the other parts: these are several scans, give \
                             the files one by one"
                        );
                        return Err(Error::input(part.path(), problem));
                    }
                    Some(_) => {}
                    None => first = Some(here),
                }
            }
        }
        let mut texts = Vec::new();
        for part in self.parts.iter_mut().filter(|part| part.find("_metadata").is_some()) {
            texts
                .push((part.path().to_path_buf(), Archive::text(part, "_metadata").ok().flatten()));
        }
        match texts.iter().find(|(_, text)| *text != texts[0].1) {
            Some((path, _)) => Err(Error::input(
                path,
                "`_metadata` is not that of the other parts: the scale of the counts may differ; give \
                 the files one by one",
            )),
            None => Ok(()),
        }
    }

    fn gather<T: Clone>(
        &mut self,
        key: &str,
        read: impl Fn(&mut Npz, &str) -> Result<ArrayD<T>>,
    ) -> Result<ArrayD<T>> {
        let holders = self.parts.iter_mut().filter(|part| part.find(key).is_some());
        if COMMON.contains(&key) {
            let missing = Error::input(&self.path, format!("`{key}` is in no part"));
            return holders.take(1).map(|part| read(part, key)).next().unwrap_or(Err(missing));
        }
        let arrays = holders.map(|part| read(part, key)).collect::<Result<Vec<_>>>()?;
        let views: Vec<_> = arrays.iter().map(|array| array.view()).collect();
        concatenate(Axis(0), &views)
            .map_err(|error| Error::input(&self.path, format!("`{key}` of the parts: {error}")))
    }
}

impl Archive for Folder {
    fn members(&self) -> &[Member] {
        &self.members
    }

    fn f32(&mut self, key: &str) -> Result<ArrayD<f32>> {
        self.gather(key, Npz::f32)
    }

    fn f32_parts(
        &mut self,
        key: &str,
        unit: usize,
        see: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let holders = self.parts.iter_mut().filter(|part| part.find(key).is_some());
        holders.into_iter().try_for_each(|part| part.f32_parts(key, unit, see))
    }

    fn f64(&mut self, key: &str) -> Result<ArrayD<f64>> {
        self.gather(key, Npz::f64)
    }

    fn c64(&mut self, key: &str) -> Result<ArrayD<Complex32>> {
        self.gather(key, Npz::c64)
    }

    fn text(&mut self, key: &str) -> Result<Option<String>> {
        match self.parts.iter_mut().find(|part| part.find(key).is_some()) {
            Some(part) => Archive::text(part, key),
            None => Ok(None),
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        self.parts.iter().map(|part| part.path().to_path_buf()).collect()
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }
}
