// Report clicks to Clickledger from an iOS or macOS app: an offline queue in a file. Shown, not run.
// A click is on disk before `add` returns and leaves it only after a final answer, which the body alone tells. It is sent
// with the same Idempotency-Key however often, so that it counts once. Call `flush` again after the seconds that it
// gives; `lastError` says why.
import Foundation

public actor ClickQueue {
    struct Waiting: Codable { let id: String; let body: [String: String]; let clickedAt: Int64 }
    /// The key is not valid (any more): the clicks stay in the queue; set `key` and flush again.
    public struct NotAuthorized: Error { public let reason: String }
    public typealias OnRefused = @Sendable (_ shortURL: String, _ code: String, _ description: String) -> Void

    public static let clicksMax = 10_000  // kept while offline; beyond it the first goes, counted in `dropped`
    private static let backoff: [Double] = [1, 2, 4, 8, 16, 32, 60]
    private static let path = "/campaignapi/resources/v3/shortlinkclicks"
    private static let refused = ["499", "1001", "1002", "1003", "1010"]  // final: this click will never be recorded
    private static let notAuthorized = ["430", "498"]  // nothing is wrong with the click

    private let file: URL, endpoint: URL, session: URLSession, onRefused: OnRefused
    private var key: String, waiting: [Waiting], failures = 0, isFlushing = false
    public private(set) var dropped = 0
    public private(set) var lastError = ""  // why the last try was no success; empty after one that was

    public init(
        file: URL, base: URL, key: String,
        onRefused: @escaping OnRefused = { NSLog("%@", "Click on \($0) refused: \($1) \($2)") }
    ) throws {
        self.file = file
        self.onRefused = onRefused
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
            let (answer, text, retryAfter) = await send(first)
            let code = "\(answer["code"] ?? "")", description = "\(answer["description"] ?? "")"
            lastError = text
            if Self.notAuthorized.contains(code) { throw NotAuthorized(reason: "\(code) \(description)") }
            let isRefused = Self.refused.contains(code)
            if answer["transaction-id"] == nil && !isRefused {
                // Not now, or no answer of Clickledger's at all: keep the click, behind the others, which may get through.
                if waiting.first?.id == first.id { waiting.append(waiting.removeFirst()) }
                try save()
                let wait = Self.backoff[min(failures, Self.backoff.count - 1)] * Double.random(in: 0.5...1)
                failures += 1
                return max(retryAfter, wait)
            }
            if isRefused { onRefused(first.body["short-url"] ?? "", code, description) }
            failures = 0
            lastError = ""
            waiting.removeAll { $0.id == first.id }
            try save()
        }
        return nil
    }

    private func save() throws { try JSONEncoder().encode(waiting).write(to: file, options: .atomic) }

    /// One attempt: the JSON object in the answer (else an empty one), how the answer reads, its Retry-After.
    private func send(_ click: Waiting) async -> ([String: Any], String, Double) {
        var request = URLRequest(url: endpoint)
        request.httpMethod = "POST"
        request.setValue("Bearer \(key)", forHTTPHeaderField: "authorization")
        request.setValue("application/json", forHTTPHeaderField: "content-type")
        request.setValue(click.id, forHTTPHeaderField: "idempotency-key")
        var body: [String: Any] = click.body
        body["clicked-at"] = click.clickedAt
        request.httpBody = try? JSONSerialization.data(withJSONObject: body)
        do {
            let (data, response) = try await session.data(for: request)
            let http = response as? HTTPURLResponse
            let text = "HTTP \(http?.statusCode ?? 0): \(String(decoding: data.prefix(200), as: UTF8.self))"
            let answer = (try? JSONSerialization.jsonObject(with: data)) as? [String: Any]  // nil: a proxy's page
            return (answer ?? [:], text, Double(http?.value(forHTTPHeaderField: "retry-after") ?? "") ?? 0)
        } catch {
            return ([:], error.localizedDescription, 0)  // no connection, a time-out
        }
    }
}
