//! The standard health and reflection services.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use akri_proto::http::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use support::{PATIENCE, grpc::Broker, nobody};
use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};

const NAMES: [&str; 2] = ["", "http.DeviceService"];

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test]
async fn a_broker_is_healthy_also_when_its_device_is_down() {
    let broker = Broker::start(&[&nobody().await.to_string()]).await;
    broker.read("").await.unwrap_err();
    let mut client = HealthClient::new(broker.channel().await);
    for name in NAMES {
        let answer = client.check(of(name)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{name:?}");
    }
    let unknown = client.check(of("other")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn while_it_stops_it_is_not_serving_and_then_the_streams_end() {
    let broker = Broker::start(&[&nobody().await.to_string()]).await;
    let mut client = HealthClient::new(broker.channel().await);
    let mut watches = Vec::new();
    for name in NAMES {
        let mut watch = client.watch(of(name)).await.unwrap().into_inner();
        let first = watch.message().await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving);
        watches.push(watch);
    }
    broker.stop.cancel();
    for mut watch in watches {
        let next = timeout(PATIENCE, watch.message()).await.unwrap();
        assert_eq!(next.unwrap().unwrap().status(), ServingStatus::NotServing);
        let end = timeout(PATIENCE, watch.message()).await.unwrap();
        assert_eq!(end.unwrap_err().code(), Code::Unavailable);
    }
    timeout(PATIENCE, broker.running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_reflection_stream_that_the_caller_leaves_open_ends_when_it_stops() {
    use v1::server_reflection_client::ServerReflectionClient;
    let broker = Broker::start(&[&nobody().await.to_string()]).await;
    let mut client = ServerReflectionClient::new(broker.channel().await);
    let silent = futures_util::stream::pending();
    let mut answers = client
        .server_reflection_info(silent)
        .await
        .unwrap()
        .into_inner();
    broker.stop.cancel();
    let end = timeout(PATIENCE, answers.message()).await.unwrap();
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
    timeout(PATIENCE, broker.running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

/// The files of the descriptor set that the broker is built with.
fn file() -> FileDescriptorProto {
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file;
    files
        .into_iter()
        .find(|file| file.package() == "http")
        .unwrap()
}

#[tokio::test]
async fn reflection_v1_tells_the_services_and_their_file() {
    use v1::{
        ServerReflectionRequest,
        server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest::{FileContainingSymbol, ListServices},
        server_reflection_response::MessageResponse::{
            FileDescriptorResponse, ListServicesResponse,
        },
    };
    let broker = Broker::start(&[&nobody().await.to_string()]).await;
    let mut client = ServerReflectionClient::new(broker.channel().await);
    let requests = [
        ListServices(String::new()),
        FileContainingSymbol("http.DeviceService".to_owned()),
    ]
    .map(|request| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    });
    let answers = client
        .server_reflection_info(futures_util::stream::iter(requests))
        .await;
    let mut answers = answers.unwrap().into_inner();
    let Some(ListServicesResponse(list)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services")
    };
    let names: Vec<String> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for name in [
        "http.DeviceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ] {
        assert!(names.iter().any(|known| known == name), "{names:?}");
    }
    let Some(FileDescriptorResponse(files)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no file")
    };
    assert_eq!(
        FileDescriptorProto::decode(&*files.file_descriptor_proto[0]).unwrap(),
        file()
    );
}

#[tokio::test]
async fn reflection_v1alpha_tells_them_too() {
    use v1alpha::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest::FileContainingSymbol,
        server_reflection_response::MessageResponse::FileDescriptorResponse,
    };
    let broker = Broker::start(&[&nobody().await.to_string()]).await;
    let mut client = ServerReflectionClient::new(broker.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(FileContainingSymbol(
            "http.DeviceService.ReadSensor".to_owned(),
        )),
    };
    let answers = client
        .server_reflection_info(futures_util::stream::iter([request]))
        .await;
    let answer = answers
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    let Some(FileDescriptorResponse(files)) = answer.message_response else {
        panic!("no file")
    };
    assert_eq!(
        FileDescriptorProto::decode(&*files.file_descriptor_proto[0]).unwrap(),
        file()
    );
}

#[tokio::test]
async fn akris_own_messages_are_as_they_were() {
    let file = file();
    for (message, field) in [
        ("ReadSensorRequest", "name"),
        ("ReadSensorResponse", "value"),
    ] {
        let message = file
            .message_type
            .iter()
            .find(|known| known.name() == message)
            .unwrap();
        assert_eq!(
            (message.field[0].name(), message.field[0].number()),
            (field, 1)
        );
    }
    assert_eq!(file.service[0].name(), "DeviceService");
    assert_eq!(file.service[0].method[0].name(), "ReadSensor");
}
