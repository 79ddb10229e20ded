//! What the descriptors say of each method: how it is told apart, counted and let in.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use proto::limits::GRPC_MESSAGE_BYTES_MAX;

/// Largest request of health and reflection, in bytes: names.
pub(crate) const PROBE_BYTES_MAX: usize = 4 * 1024;
/// The methods that the admin token is for, beside all of the admin service but [`INFO`].
const ADMIN_METHODS: [&str; 3] = [
    "dp1.storage.v1.QueueService/DeleteQueue",
    "dp1.storage.v1.QueueService/Purge",
    "dp1.storage.v1.QueueService/Redrive",
];
const ADMIN_SERVICE: &str = "dp1.storage.v1.AdminService";
/// Tells callers whom they talk to, so they all may ask.
const INFO: &str = "dp1.storage.v1.AdminService/GetServerInfo";
const HEALTH_PACKAGE: &str = "grpc.health.v1";
const CONTRACT_PACKAGE: &str = "dp1.storage.v1";
/// What the methods that nobody knows are counted as.
const UNKNOWN: &str = "unknown";

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everybody.
    Open,
    /// Whoever has a token, if there is one.
    Caller,
    /// Whoever has the admin token, if there is one.
    Admin,
}

/// Whose room a call takes: each kind has its own, so that none can use up another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// A question and its answer.
    Calls,
    /// Calls that last.
    Streams,
    /// The same of the health service, which is open to everybody.
    HealthCalls,
    HealthStreams,
}

/// A method as its callers meet it.
#[derive(Debug)]
pub(crate) struct Method {
    /// `package.Service/Method`.
    pub(crate) name: String,
    pub(crate) lane: Lane,
    pub(crate) scope: Scope,
    /// Largest request, in bytes.
    pub(crate) request_bytes_max: usize,
    /// It never ends by itself, not even when the service is told to stop.
    pub(crate) is_endless: bool,
}

/// All methods that are served.
#[derive(Debug)]
pub(crate) struct Methods {
    known: HashMap<String, Arc<Method>>,
    unknown: Arc<Method>,
}

impl Methods {
    /// As the descriptors have them.
    pub(crate) fn of_all_services() -> Self {
        let sets = [
            proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut known = HashMap::new();
        for set in sets {
            let set = FileDescriptorSet::decode(set).expect("the build has encoded it");
            for file in set.file {
                for service in &file.service {
                    let service_name = format!("{}.{}", file.package(), service.name());
                    for method in &service.method {
                        let is_stream = method.client_streaming() || method.server_streaming();
                        let method = Method::new(file.package(), &service_name, method.name(), is_stream);
                        known.insert(format!("/{}", method.name), Arc::new(method));
                    }
                }
            }
        }
        let unknown = Method {
            name: UNKNOWN.to_owned(),
            lane: Lane::Calls,
            scope: Scope::Caller,
            request_bytes_max: PROBE_BYTES_MAX,
            is_endless: false,
        };
        Self {
            known,
            unknown: Arc::new(unknown),
        }
    }

    /// The method behind a path; one that stands for all others if there is none.
    pub(crate) fn of(&self, path: &str) -> Arc<Method> {
        Arc::clone(self.known.get(path).unwrap_or(&self.unknown))
    }
}

impl Method {
    fn new(package: &str, service: &str, method: &str, is_stream: bool) -> Self {
        let name = format!("{service}/{method}");
        let is_health = package == HEALTH_PACKAGE;
        let is_contract = package == CONTRACT_PACKAGE;
        let is_admin = (service == ADMIN_SERVICE && name != INFO) || ADMIN_METHODS.contains(&name.as_str());
        Self {
            lane: match (is_health, is_stream) {
                (false, false) => Lane::Calls,
                (false, true) => Lane::Streams,
                (true, false) => Lane::HealthCalls,
                (true, true) => Lane::HealthStreams,
            },
            scope: match (is_health, is_admin) {
                (true, _) => Scope::Open,
                (false, false) => Scope::Caller,
                (false, true) => Scope::Admin,
            },
            request_bytes_max: if is_contract {
                GRPC_MESSAGE_BYTES_MAX
            } else {
                PROBE_BYTES_MAX
            },
            is_endless: is_stream && !is_contract,
            name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, lane: Lane, scope: Scope) {
        let method = Methods::of_all_services().of(path);
        assert_eq!((method.lane, method.scope), (lane, scope), "{path}");
    }

    #[test]
    fn each_method_has_its_lane_and_scope() {
        check("/dp1.storage.v1.KvService/Get", Lane::Calls, Scope::Caller);
        check("/dp1.storage.v1.KvService/Watch", Lane::Streams, Scope::Caller);
        check("/dp1.storage.v1.QueueService/Consume", Lane::Streams, Scope::Caller);
        check("/dp1.storage.v1.QueueService/Purge", Lane::Calls, Scope::Admin);
        check("/dp1.storage.v1.AdminService/GetServerInfo", Lane::Calls, Scope::Caller);
        check("/dp1.storage.v1.AdminService/Backup", Lane::Streams, Scope::Admin);
        check("/grpc.health.v1.Health/Check", Lane::HealthCalls, Scope::Open);
        check("/grpc.health.v1.Health/Watch", Lane::HealthStreams, Scope::Open);
        for version in ["v1", "v1alpha"] {
            let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
            check(&path, Lane::Streams, Scope::Caller);
        }
        check("/dp1.storage.v1.KvService/Nothing", Lane::Calls, Scope::Caller);
    }
}
