//! `whit monitor serve`: the page and Prometheus metrics of logs, as they are when someone asks.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use serde_json::json;
use tiny_http::{Header, Method, Request, Response, Server};

use super::Logs;
use crate::commands::print_text;
use crate::monitor::log::find_logs;
use crate::monitor::merge::{Fleet, Merger};
use crate::monitor::metrics::prometheus;
use crate::monitor::page::page;
use crate::monitor::reading::{Read, read_logs};
use crate::monitor::summary::{Named, Summary, read_json};

#[derive(Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    logs: Logs,
    /// The model that the devices run: its name and those of its tensors
    #[arg(long, value_name = "FILE.whit")]
    model: Option<PathBuf>,
    /// Address and port; port 0 takes a free one. Others than this computer can ask only if it isn't a loopback address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    listen: String,
}

/// Logs and what they came to.
struct Live {
    logs: Logs,
    named: Option<Named>,
    /// Path, length and time of change of each log when it was read.
    state: Vec<(PathBuf, u64, Option<SystemTime>)>,
    fleets: Vec<Fleet>,
    read: Read,
}

impl Serve {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let named = self.model.as_deref().map(Named::open).transpose()?;
        let mut live = Live {
            logs: self.logs,
            named,
            state: Vec::new(),
            fleets: Vec::new(),
            read: Read::default(),
        };
        // Paths that can't be read are told now, not to a browser.
        live.refresh()?;
        let wrong = || format!("--listen {}", self.listen);
        let address = self.listen.to_socket_addrs().with_context(wrong)?.next();
        let address = address.ok_or_else(|| anyhow!("no such address")).with_context(wrong)?;
        let server = Server::http(address).map_err(|error| anyhow!(error)).with_context(wrong)?;
        let own = server.server_addr().to_ip().unwrap_or(address);
        if !own.ip().is_loopback() {
            eprintln!("note: {own} is open to everyone who reaches it; there is no password");
        }
        print_text(&format!(
            "http://{own}/ has the page, http://{own}/metrics Prometheus metrics"
        ))?;
        for request in server.incoming_requests() {
            // A client that hangs up early is no reason to stop.
            let _ = answer(&mut live, &own, request);
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Live {
    /// Reads the logs if one has changed.
    fn refresh(&mut self) -> Result<()> {
        let state: Vec<(PathBuf, u64, Option<SystemTime>)> = find_logs(&self.logs.logs)?
            .into_iter()
            .map(|path| {
                let found = std::fs::metadata(&path);
                let bytes = found.as_ref().map_or(0, std::fs::Metadata::len);
                let changed = found.and_then(|found| found.modified()).ok();
                (path, bytes, changed)
            })
            .collect();
        // The coarsest clocks of file systems tick every other second: a log that changed just now is read again.
        let settled = state.iter().all(|(_, _, changed)| {
            changed.and_then(|changed| changed.elapsed().ok()).is_some_and(|age| age.as_secs() > 4)
        });
        if state == self.state && settled {
            return Ok(());
        }
        let mut merger = Merger::default();
        self.read = read_logs(&self.logs.logs, &self.logs.selection(), &mut merger)?;
        self.fleets = merger.finish();
        self.state = state;
        Ok(())
    }

    fn summaries(&self) -> Vec<Summary<'_>> {
        self.fleets.iter().map(|fleet| Summary::new(fleet, self.named.as_ref())).collect()
    }

    fn content(&mut self, path: &str) -> Result<Option<(&'static str, String)>> {
        const HTML: &str = "text/html; charset=utf-8";
        if !["/", "/metrics", "/report.json"].contains(&path) {
            return Ok(None);
        }
        self.refresh()?;
        Ok(Some(match path {
            "/metrics" => {
                ("text/plain; version=0.0.4; charset=utf-8", prometheus(&self.fleets, &self.read))
            }
            "/report.json" => {
                let fleets: Vec<_> = self.summaries().iter().map(Summary::json).collect();
                (
                    "application/json",
                    json!({ "log": read_json(&self.read), "fleets": fleets }).to_string(),
                )
            }
            _ => (HTML, page(&self.summaries(), &self.read, true)?),
        }))
    }
}

fn answer(live: &mut Live, own: &SocketAddr, request: Request) -> std::io::Result<()> {
    let host = request.headers().iter().find(|header| header.field.equiv("Host"));
    let host = host.map(|header| header.value.as_str().to_owned());
    let path = request.url().split(['?', '#']).next().unwrap_or("/").to_owned();
    let (status, kind, text) = if !matches!(request.method(), Method::Get | Method::Head) {
        (405, "text/plain", "only GET is answered\n".to_owned())
    } else if !is_own(own, host.as_deref()) {
        (403, "text/plain", "this address is asked by another name\n".to_owned())
    } else {
        match live.content(&path) {
            Ok(Some((kind, text))) => (200, kind, text),
            Ok(None) => (404, "text/plain", "there are /, /metrics and /report.json\n".to_owned()),
            Err(error) => (500, "text/plain", format!("{error:#}\n")),
        }
    };
    let mut response = Response::from_string(text).with_status_code(status);
    for (name, value) in [
        ("Content-Type", kind),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
    ] {
        if let Ok(header) = Header::from_bytes(name, value) {
            response.add_header(header);
        }
    }
    request.respond(response)
}

/// Whether a request names a loopback address by its own name: a page of elsewhere whose name was made to point here
/// doesn't (DNS rebinding).
fn is_own(own: &SocketAddr, host: Option<&str>) -> bool {
    if !own.ip().is_loopback() {
        return true;
    }
    let Some(host) = host else { return true };
    let name = match host.rsplit_once(':') {
        _ if host.parse::<std::net::IpAddr>().is_ok() => host,
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_answers_to_its_own_names() {
        let loopback: SocketAddr = "127.0.0.1:9464".parse().expect("an address");
        let open: SocketAddr = "192.0.2.1:9464".parse().expect("an address");
        for (host, own) in [
            ("127.0.0.1:9464", true),
            ("localhost:9464", true),
            ("LOCALHOST", true),
            ("[::1]:9464", true),
            ("::1", true),
            ("127.0.0.1.example.com", false),
            ("example.com:9464", false),
            ("192.0.2.1:9464", false),
            ("", false),
        ] {
            assert_eq!(is_own(&loopback, Some(host)), own, "{host}");
            assert!(is_own(&open, Some(host)));
        }
        assert!(is_own(&loopback, None));
    }
}
