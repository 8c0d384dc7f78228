use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
};

use flate2::bufread::GzDecoder;

/// A gzip file's members one after the other. Zeros between and after them are padding, as of tapes and
/// block devices, which gzip itself passes over.
pub(super) struct Gzip {
    /// Absent after the last member, and while one ends and another begins.
    member: Option<GzDecoder<BufReader<File>>>,
}

impl Gzip {
    pub(super) fn new(file: File) -> Self {
        Self {
            member: Some(GzDecoder::new(BufReader::new(file))),
        }
    }
}

impl Read for Gzip {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(out)?;
            if read > 0 || out.is_empty() {
                return Ok(read);
            }
            self.member = self
                .member
                .take()
                .map(GzDecoder::into_inner)
                .map_or(Ok(None), next)?;
        }
        Ok(0)
    }
}

/// The member after the padding, if there is one.
fn next(mut file: BufReader<File>) -> io::Result<Option<GzDecoder<BufReader<File>>>> {
    loop {
        let there = file.fill_buf()?;
        let zeros = there.iter().take_while(|&&byte| byte == 0).count();
        let (ended, begins) = (there.is_empty(), zeros < there.len());
        file.consume(zeros);
        if ended {
            return Ok(None);
        }
        if begins && file.fill_buf()?.first() != Some(&0x1f) {
            let behind = "something that is no gzip comes behind its end";
            return Err(io::Error::new(io::ErrorKind::InvalidData, behind));
        }
        if begins {
            return Ok(Some(GzDecoder::new(file)));
        }
    }
}
