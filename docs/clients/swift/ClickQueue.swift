// Report clicks to Clickledger from an iOS or macOS app: an offline queue in a file. Shown, not run.
// A click is on disk before `add` returns and leaves it only after a final answer. It is sent with the same
// Idempotency-Key however often, so that it counts once. Call `flush` again after the seconds that it gives.
import Foundation

public actor ClickQueue {
    struct Waiting: Codable { let id: String; let body: [String: String]; let clickedAt: Int64 }
    public struct NotAuthorized: Error {}

    public static let clicksMax = 10_000  // kept while offline; beyond it the oldest goes, counted in `dropped`
    private static let backoff: [Double] = [1, 2, 4, 8, 16, 32, 60]
    private static let path = "/campaignapi/resources/v3/shortlinkclicks"

    private let file: URL, endpoint: URL, session: URLSession
    private var key: String, waiting: [Waiting], failures = 0, isFlushing = false
    public private(set) var dropped = 0
    public var onRefused: @Sendable (_ shortURL: String, _ code: String, _ description: String) -> Void = { _, _, _ in }

    public init(file: URL, base: URL, key: String) throws {
        self.file = file
        endpoint = base.appendingPathComponent(Self.path)
        self.key = key
        let configuration = URLSessionConfiguration.default
        configuration.timeoutIntervalForRequest = 10
        session = URLSession(configuration: configuration)
        waiting = FileManager.default.fileExists(atPath: file.path)
            ? try JSONDecoder().decode([Waiting].self, from: Data(contentsOf: file)) : []
    }

    public func set(key: String) { self.key = key }

    public func add(shortURL: String, userAgent: String? = nil) throws {
        var body = ["short-url": shortURL]
        body["user-agent"] = userAgent
        let now = Int64(Date().timeIntervalSince1970 * 1000)  // it may be sent much later
        waiting.append(Waiting(id: UUID().uuidString, body: body, clickedAt: now))
        let surplus = max(0, waiting.count - Self.clicksMax)
        waiting.removeFirst(surplus)
        dropped += surplus
        try save()
    }

    /// Seconds until it is worth trying again; nil when nothing waits.
    public func flush() async throws -> Double? {
        guard !isFlushing else { return 1 }
        isFlushing = true
        defer { isFlushing = false }
        while let first = waiting.first {
            let (status, answer, retryAfter) = await send(first)
            if status == 401 { throw NotAuthorized() }
            if status == nil || status == 429 || status! >= 500 {
                let wait = Self.backoff[min(failures, Self.backoff.count - 1)] * Double.random(in: 0.5...1)
                failures += 1
                return max(retryAfter, wait)
            }
            // Anything else is final: 200 with an id, 200 with code 1010 (will never be recorded), or refused for good.
            failures = 0
            waiting.removeAll { $0.id == first.id }
            try save()
            if answer["transaction-id"] == nil {
                onRefused(first.body["short-url"] ?? "", answer["code"] as? String ?? "", answer["description"] as? String ?? "")
            }
        }
        return nil
    }

    private func save() throws { try JSONEncoder().encode(waiting).write(to: file, options: .atomic) }

    private func send(_ click: Waiting) async -> (Int?, [String: Any], Double) {
        var request = URLRequest(url: endpoint)
        request.httpMethod = "POST"
        request.setValue("Bearer \(key)", forHTTPHeaderField: "authorization")
        request.setValue("application/json", forHTTPHeaderField: "content-type")
        request.setValue(click.id, forHTTPHeaderField: "idempotency-key")
        var body: [String: Any] = click.body
        body["clicked-at"] = click.clickedAt
        request.httpBody = try? JSONSerialization.data(withJSONObject: body)
        guard let (data, response) = try? await session.data(for: request), let http = response as? HTTPURLResponse else {
            return (nil, [:], 0)  // no connection, a time-out
        }
        let answer = (try? JSONSerialization.jsonObject(with: data)) as? [String: Any]
        if http.statusCode == 200 && answer == nil { return (nil, [:], 0) }  // a proxy's page is no answer
        return (http.statusCode, answer ?? [:], Double(http.value(forHTTPHeaderField: "retry-after") ?? "") ?? 0)
    }
}
