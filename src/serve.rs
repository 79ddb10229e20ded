//! `dp1-feed serve`: storage, gateway and consumer in this process, joined in memory.
//!
//! Start and stop of the three and nothing else: how each works is its own crate's business.

use std::path::Path;

use anyhow::Context as _;
use feed_store::FeedStore;
use proto::client::StorageClient;
use runtime::clock::Clock;
use runtime::secret::Secret;
use storage_svc::Store;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::first_start;

/// Settings of the three, as each has them in a process of its own.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    #[command(flatten)]
    store: storage_svc::StoreArgs,
    #[command(flatten)]
    gateway: api_gateway::GatewayArgs,
    #[command(flatten)]
    consumer: consumer::ConsumerArgs,
    /// Address of the storage service's gRPC port, such as 127.0.0.1:50051, or unix:/path of a socket. Unset: there is
    /// none.
    #[arg(long, env = "STORAGE_LISTEN")]
    storage_listen: Option<String>,
    #[command(flatten)]
    listen: storage_svc::ListenArgs,
    #[command(flatten)]
    metrics: runtime::metrics::Args,
    #[command(flatten)]
    telemetry: runtime::telemetry::Args,
}

/// Serves until SIGTERM or SIGINT, or until one of the three ends by itself, which is an error.
pub(crate) async fn run(mut args: Args) -> anyhow::Result<()> {
    runtime::telemetry::start(&args.telemetry)?;
    let shutdown = runtime::signal::shutdown()?;
    let clock = Clock::system();

    let listener = args.gateway.bind().await?;
    let bound = listener.local_addr()?;
    let storage_listener = match args.storage_listen.as_deref() {
        None | Some("") => None,
        Some(address) => Some(storage_svc::bind(address, &args.listen).await?),
    };
    let metrics_listener = args.metrics.bind().await?;
    let store = Store::open(&args.store, clock.clone())?;
    let folder = match args.store.sqlite_db_path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if is_unset(args.gateway.ed25519_private_key.as_ref()) {
        args.gateway.ed25519_private_key = Some(first_start::signing_key(folder)?.into());
    }
    if is_unset(args.gateway.api_secret.as_ref()) {
        args.gateway.api_secret = Some(first_start::api_secret(folder)?.into());
    }
    let settings = args.gateway.settings(bound)?;

    let mut services = JoinSet::new();
    services.spawn(watch(store.clone(), shutdown.clone()));
    let documents = FeedStore::new(StorageClient::in_process(storage_svc::routes(&store)));
    let gateway = api_gateway::Gateway::new(settings, documents.clone(), clock.clone());
    if let Some(listener) = storage_listener {
        println!("storage-svc ready on {}", listener.address());
        let serving = storage_svc::serve(listener, store.clone(), shutdown.clone());
        services.spawn(async { serving.await.context("the storage service stopped") });
    }
    let consumer = consumer::Consumer::new(documents, args.consumer.into(), clock);
    if let Some(listener) = metrics_listener {
        let asked = (store.clone(), consumer.clone());
        let figures = move || {
            let (store, consumer) = asked.clone();
            async move { store.figures().await + &consumer.figures().await }
        };
        let asked = consumer.clone();
        // It asks the store in its turn.
        let ready = move || {
            let consumer = asked.clone();
            async move { consumer.ready().await.map_err(|why| why.to_string()) }
        };
        let serving = runtime::metrics::serve(listener, figures, ready, shutdown.clone());
        services.spawn(async {
            serving.await;
            Ok(())
        });
    }
    let stopping = shutdown.clone();
    services.spawn(async move {
        consumer.run(stopping).await;
        Ok(())
    });
    let serving = api_gateway::serve(listener, gateway, shutdown.clone());
    services.spawn(async { serving.await.context("the gateway stopped") });
    println!("dp1-feed ready on http://{bound}");

    let ended = join(services, &shutdown).await;
    // The file goes last: what the others were finishing is in it.
    store.close().await;
    ended
}

fn is_unset(secret: Option<&Secret>) -> bool {
    secret.is_none_or(Secret::is_blank)
}

/// A feed whose store can write no more must not look alive.
async fn watch(store: Store, shutdown: CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        () = store.ended() => anyhow::bail!("the store ended"),
        () = shutdown.cancelled() => Ok(()),
    }
}

/// Waits for all of them. One that ends before it is told to takes the others down with it.
async fn join(mut services: JoinSet<anyhow::Result<()>>, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let mut first_failure = Ok(());
    while let Some(ended) = services.join_next().await {
        let ended = match ended {
            Ok(Ok(())) if shutdown.is_cancelled() => Ok(()),
            Ok(Ok(())) => Err(anyhow::anyhow!("a service ended by itself")),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(anyhow::Error::new(error).context("a service failed")),
        };
        shutdown.cancel();
        first_failure = first_failure.and(ended);
    }
    first_failure
}
